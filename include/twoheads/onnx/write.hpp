#pragma once

#include <onnx/onnx_pb.h>

#include <fstream>
#include <string>
#include <twoheads/base/errors.hpp>

namespace twoheads {

/// Writes a model as an ONNX file.
///
///   Throws   Error that names the file, if it cannot be written
inline void write_onnx(const std::string& path, const ::onnx::ModelProto& model) {
  std::string bytes;
  if (!model.SerializeToString(&bytes))
    throw Error(detail::text("the ONNX model for ", path, " cannot be made into bytes: it is larger than 2 GiB"));
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  if (!out) throw Error(detail::text("cannot open ", path, " for writing"));
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw Error(detail::text("cannot write all ", bytes.size(), " bytes of ", path));
}

}  // namespace twoheads
