// The CPU sampler inside libposewarp_cpu.so, for any thread pool.
#pragma once

#include "../core/grid_sample.h"

#include <cstddef>

namespace posewarp::cpu
{

// Values of POSEWARP_FP32, POSEWARP_FP16, POSEWARP_BF16.
enum class Dtype : int32_t
{
    kFP32 = 0,
    kFP16 = 1,
    kBF16 = 2,
};

// Calls body(data, i) once for each i in [0, count), at most `threads` at a time, and returns when all have returned.
// The body never throws.
struct ParallelFor
{
    using Body = void (*)(void* data, size_t index);
    void (*run)(void* context, size_t count, Body body, void* data);
    void* context;
    int threads;
};

// Calls body(i) for each i below count.
template <typename Body>
void forEach(ParallelFor const& parallel, int64_t count, Body const& body)
{
    parallel.run(
        parallel.context, static_cast<size_t>(count),
        [](void* data, size_t index) { (*static_cast<Body const*>(data))(static_cast<int64_t>(index)); },
        const_cast<Body*>(&body));
}

struct Problem
{
    void const* features;
    Dtype dtype;
    float const* grid;
    void* output;
    Sizes sizes;
    Attributes attributes;
};

// Samples; POSEWARP_OK or what went wrong (posewarp_cpu.h). Never throws.
int gridSample(Problem const& problem, ParallelFor const& parallel) noexcept;

} // namespace posewarp::cpu
