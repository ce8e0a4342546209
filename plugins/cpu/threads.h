// Threads of the library's own, for callers that bring none, and memory that is kept between calls.
#pragma once

#include "sampler.h"

#include <memory>

namespace posewarp::cpu
{

// CPUs that this process may run on.
int countCpus();

// A ParallelFor over at most `threads` threads, the caller's among them; they are started when first needed, then
// sleep between calls and are never ended. A call that finds them busy runs on its caller's thread alone.
ParallelFor ownThreads(int threads);

// Floats on a cache line, returned to the library when the pointer goes; null when there is no memory. Fresh pages
// would cost a small call more than its sampling, so buffers are kept: as many as were in use at a time, of at most
// 64 MiB each.
struct ReturnScratch
{
    void operator()(void* memory) const;
};
using Scratch = std::unique_ptr<void, ReturnScratch>;
Scratch takeScratch(size_t bytes);

} // namespace posewarp::cpu
