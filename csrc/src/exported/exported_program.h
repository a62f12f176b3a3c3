#pragma once

#include <optional>

#include <c10/core/Device.h>

#include <it3/backend/exported_graph.h>
#include <it3/backend/output_path.h>

#include "files/archive.h"

namespace it3::detail {

/// Whether a file holds what torch.export.save() wrote, whatever else is in it.
bool holds_exported_program(const Archive& archive);

/// See read_exported_program(); errors do not name the file.
ExportedGraph exported_graph_in(
    const Archive& archive, const std::optional<OutputPath>& output, std::optional<c10::Device> device);

}  // namespace it3::detail
