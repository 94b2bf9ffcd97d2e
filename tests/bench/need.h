// What a benchmark cannot do without: the value, or an exception with the status' sentence, which main prints.
#pragma once

#include <stdexcept>
#include <utility>

#include "common/status.h"

namespace heddle::bench {

template <typename T>
T Need(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().ToString());
  return *std::move(result);
}
inline void Need(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

}  // namespace heddle::bench
