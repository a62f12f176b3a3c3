#pragma once

/// @file
/// Includes all public headers of it3.

/// @namespace it3
/// Idempotent Test-Time Training (IT3; Durasov et al., ICML 2025, arXiv 2410.04201) on LibTorch.
///
/// A trained network f predicts y0 = f(x). An embedder feeds y0 back into one layer of the network, which gives a
/// second prediction y1 = f(x | y0). At test time a few optimizer steps shrink the distance between the two on the
/// inputs at hand, without labels, and the adapted network's prediction is returned. In this reference:
///
/// - the *layer* is the one that y0 is fed back at, and the *features* are its output;
/// - the *embedding* is what the embedder makes of y0, and it is *injected*: combined with the features;
/// - B is the number of samples of a batch, C the number of channels (classes, components) of a prediction, F that of
///   the features; shapes such as (B, C) have their dimensions in this order;
/// - a dtype is that of the model, unless it is given.
///
/// Errors are C++ exceptions: c10::ValueError for values that are not accepted, c10::TypeError for values of another
/// type, c10::IndexError for dimensions that a tensor does not have, and c10::Error, from which these three are
/// derived, for all else, such as files that cannot be read. Examples use a `model`, which is a torch::nn::Sequential
/// with the children "encoder", "relu" and "head"; inputs `x` of shape (8, 13), targets `y` of shape (8, 3), class
/// indices `classes` of shape (8); and an `engine` around the model, cut at "encoder".

#include <it3/adapt.h>
#include <it3/adaptation.h>
#include <it3/backend/exported_function.h>
#include <it3/backend/feedback.h>
#include <it3/backend/graphs.h>
#include <it3/backend/inputs.h>
#include <it3/backend/layout.h>
#include <it3/backend/losses.h>
#include <it3/backend/model_lock.h>
#include <it3/backend/normalization.h>
#include <it3/backend/online.h>
#include <it3/backend/optimizer.h>
#include <it3/backend/sample_distances.h>
#include <it3/backend/samples.h>
#include <it3/backend/saved_engine.h>
#include <it3/backend/script_function.h>
#include <it3/backend/selection.h>
#include <it3/backend/settle_layouts.h>
#include <it3/backend/swapped_weights.h>
#include <it3/backend/swapped_working_copy.h>
#include <it3/backend/uncertainty.h>
#include <it3/embedder.h>
#include <it3/engine.h>
#include <it3/error_text.h>
#include <it3/explanation.h>
#include <it3/exported_network.h>
#include <it3/injection.h>
#include <it3/input_layer.h>
#include <it3/method.h>
#include <it3/module_network.h>
#include <it3/network.h>
#include <it3/neutral.h>
#include <it3/options.h>
#include <it3/script_input_layer.h>
#include <it3/script_network.h>
#include <it3/training_recipe.h>
