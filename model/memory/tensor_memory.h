// LibTorch's memory on the processor, for programs that train: arrays from 256 KiB come from LargeBlocks, smaller ones
// from malloc. A step then asks the system for few fresh pages once one like it has been done, and a process is as
// large as what its tensors need at one time, and a spare part. Values and results are the same. For programs, at their
// start: never for a library. AddressSanitizer sees arrays that are used after their end, as with malloc.
#pragma once

namespace heddle::model {

// From now on, for the whole process. Once, before LibTorch is used in another thread; again: nothing happens. A block
// may outlive everything but the process. `spare`: how much more than its tensors need at one time a process may keep,
// in parts of that, from 0. With none, what one half of a step has used makes room for what the other uses.
void UseTensorMemory(double spare);
inline constexpr double kDeviceSpare = 0, kServerSpare = 0.5;

// What no tensor uses goes back to the system, from here and from malloc: for a process that waits. Thread-safe; also
// without UseTensorMemory.
void ReleaseTensorMemory();

}  // namespace heddle::model
