#pragma once

#include <string>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>
#include <it3/network.h>

namespace it3 {

/// The layouts of a network's prediction and of its named layer's output.
struct Layouts {
  Layout prediction = {};
  Layout features = {};

  bool operator==(const Layouts&) const = default;
};

/// Which of two layouts have to be known.
struct NeededLayouts {
  bool prediction = true;
  bool features = true;
};

/// Where the network's prediction and features have their samples and channels.
///
/// A layout whose `channel_dim` is set is taken as it is. Else a plain pass shows the shapes. Tensors of up to two
/// dimensions are (B), (B, C). In others the samples are where fewer of them change the size and no value, and the
/// channels are where the layer that returns the tensor has them, if it is one of torch.nn's. If it is not, passes with
/// inputs of other sizes tell channels from positions, whose number changes; where several dimensions keep their sizes,
/// the channels are the one of them that has as many as the layers before.
///
/// The passes run on a working copy. What they write, and the random state, is as before afterwards.
///
/// @param layer  its name, for the errors
/// Raises c10::ValueError where a layout that is needed stays open, c10::IndexError for a given one that the tensor
/// does not have, and what a plain pass raises.
IT3_API Layouts settle_layouts(
    Network& network,
    const Inputs& inputs,
    const Layouts& given,
    const Origin& of_prediction,
    const Origin& of_features,
    const std::string& layer,
    NeededLayouts needed = {});

/// The shapes of a network's prediction and of its named layer's output.
struct Shapes {
  ShapeAndLayout prediction;
  ShapeAndLayout features;
};

/// These shapes, by a plain pass, with layouts as settle_layouts() gives them.
IT3_API Shapes settled_shapes(Network& network, const Inputs& inputs, const Layouts& layouts);

}  // namespace it3
