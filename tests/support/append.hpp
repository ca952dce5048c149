#pragma once

#include <cstring>
#include <string>

/// Appends a number to the bytes of a file, in the machine's byte order.
template <class Value>
void append(std::string& bytes, Value value) {
  char raw[sizeof(Value)];
  std::memcpy(raw, &value, sizeof(Value));
  bytes.append(raw, sizeof(Value));
}
