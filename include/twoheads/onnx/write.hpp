#pragma once

#include <onnx/onnx_pb.h>

#include <ostream>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/write_file.hpp>

namespace twoheads {

/// Writes a model as an ONNX file.
///
///   Throws   FileError where it cannot be written, and the old file is as it was; SpecError for a model of more than
///            2 GiB, which the format does not hold
inline void write_onnx(const std::string& path, const ::onnx::ModelProto& model) {
  std::string bytes;
  if (!model.SerializeToString(&bytes))
    throw SpecError(detail::text("the ONNX model for ", path, " cannot be made into bytes: it is larger than 2 GiB"));
  detail::write_file(path,
                     [&](std::ostream& out) { out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())); });
}

}  // namespace twoheads
