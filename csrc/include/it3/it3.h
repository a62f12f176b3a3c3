#pragma once

/// Everything of it3, Idempotent Test-Time Training on LibTorch.
#include <it3/adapt.h>
#include <it3/embedder.h>
#include <it3/engine.h>
#include <it3/feedback.h>
#include <it3/injection.h>
#include <it3/inputs.h>
#include <it3/layout.h>
#include <it3/lent_weights.h>
#include <it3/lent_working_copy.h>
#include <it3/losses.h>
#include <it3/method.h>
#include <it3/module_network.h>
#include <it3/network.h>
#include <it3/normalisation.h>
#include <it3/online.h>
#include <it3/optimizer.h>
#include <it3/options.h>
#include <it3/samples.h>
#include <it3/saved_engine.h>
#include <it3/script_function.h>
#include <it3/script_network.h>
#include <it3/selection.h>
#include <it3/uncertainty.h>
