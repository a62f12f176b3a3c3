#pragma once

#include <string>

#include <it3/backend/export.h>
#include <it3/backend/layout.h>
#include <it3/network.h>

namespace it3 {

/// Which dimensions of a network's prediction and of its features, the output of its layer, are samples and channels.
struct Layouts {
  Layout prediction = {};  ///< of the prediction
  Layout features = {};    ///< of the features

  /// Whether both layouts are equal.
  bool operator==(const Layouts&) const = default;
};

/// Which of the two layouts have to be known.
struct NeededLayouts {
  bool prediction = true;  ///< whether that of the prediction has to be
  bool features = true;    ///< whether that of the features has to be
};

/// Finds out which dimensions of the network's prediction and features are samples and channels.
///
/// A layout whose `channel_dim` is set is taken as it is. Otherwise a plain pass shows the shapes:
///
/// - Tensors of one or two dimensions are (B) or (B, C).
/// - In larger tensors, the sample dimension is the one that shrinks, with the remaining values unchanged, if the
///   inputs have fewer samples. The channel dimension is that of the torch.nn layer that returns the tensor.
/// - If no layer of torch.nn returns the tensor, passes with inputs of other sizes tell channels from positions, whose
///   number changes. If several dimensions keep their size, the channel dimension is the one of the size that the
///   layers before have.
///
/// The passes run on a working copy. Everything that they write, and the random state, is afterwards as before.
///
/// @param network  the network
/// @param inputs  one batch
/// @param given  layouts that are known
/// @param of_prediction  the layers that compute the prediction
/// @param of_features  the layers that compute the features
/// @param layer  the name of the layer, for errors
/// @param needed  which layouts have to be known
/// @throws c10::ValueError  if a layout that is needed stays unknown
/// @throws c10::IndexError  if a given layout names a dimension that the tensor does not have
///
/// @code{.cpp}
/// it3::ModuleNetwork network(model, "encoder");
/// it3::Layouts layouts = it3::settle_layouts(
///     network, it3::Inputs(x), {}, network.origin_of_prediction(), network.origin_of_features(), "encoder");
/// it3::Shapes shapes = it3::settled_shapes(network, it3::Inputs(x), layouts);
/// std::cout << "features " << shapes.features.str() << '\n';
/// @endcode
IT3_API Layouts settle_layouts(
    Network& network,
    const Inputs& inputs,
    const Layouts& given,
    const Origin& of_prediction,
    const Origin& of_features,
    const std::string& layer,
    NeededLayouts needed = {});

/// The shapes of a network's prediction and of its features, the output of its layer.
struct Shapes {
  ShapeAndLayout prediction;  ///< of the prediction
  ShapeAndLayout features;    ///< of the features
};

/// Finds these shapes by a plain pass.
///
/// @param network  the network
/// @param inputs  one batch
/// @param layouts  as settle_layouts() returns them
IT3_API Shapes settled_shapes(Network& network, const Inputs& inputs, const Layouts& layouts);

}  // namespace it3
