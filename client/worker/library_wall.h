// The wall around LibTorch: whatever a local task's work throws becomes its Status.
//
// Include only from translation units of targets with TORCH. Thread-safe as `work` is.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <new>
#include <string>

#include "client/worker/local_task.h"

namespace heddle::client {

// What `work` returns. Errors beside its own: kResourceExhausted when memory ran out; kInternal with the library's
// sentence for any other exception.
template <typename Work>
Result<TaskOutput> WithinLibraryWall(const Work& work) {
  try {
    return work();
  } catch (const c10::OutOfMemoryError&) {
    return ResourceExhausted("there is " + std::string(kNotEnoughMemory) + " for the task's tensors");
  } catch (const c10::Error& error) {
    return Internal(std::string("LibTorch failed: ") + error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("there is " + std::string(kNotEnoughMemory) + " for the task");
  } catch (const std::exception& error) {
    return Internal(std::string("the task failed: ") + error.what());
  }
}

}  // namespace heddle::client
