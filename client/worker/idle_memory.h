// What a worker without a task holds that it does not need.
#pragma once

namespace heddle::client {

// Gives back what the allocator keeps of freed memory, and the resident pages of programs and libraries that hold
// nothing but their file's bytes: most of LibTorch and of the hundreds of libraries that it pulls in is touched once,
// when it is loaded. The next use of such a page finds it in the system's cache. Takes some tens of milliseconds; any
// thread may call it at any time. What the system does not tell or does not do stays as it is.
void GiveBackIdleMemory();

}  // namespace heddle::client
