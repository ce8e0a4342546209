// Where the programs that check run the kernels: on a GPU (device.cpp), or in emulation on the host (emulation.cpp).
#pragma once

#include "cuda/cases.h"

#include <cuda_runtime_api.h>

namespace posewarp::cases
{

// Emulation is slow: the crowds of makeCases are left out.
extern bool const kEMULATED;

// Why no kernel can be run here, or "".
std::string findDeviceProblem();

// Puts one case on a stream, given pointers that kernels can use; returns why it could not, or "".
using Launch
    = std::function<std::string(Case const& test, void* features, float* grid, void* output, cudaStream_t stream)>;

// Runs cases through a launch: copies in, waits, copies out.
Run onDevice(Launch const& launch);

// What `enqueue` puts on the stream, put there once more as a captured CUDA graph: capture fails if it allocates, waits
// or uses another stream. Returns what went wrong, or "". Emulation has no graphs: nothing.
std::string repeatAsGraph(cudaStream_t stream, std::function<std::string()> const& enqueue);

// Device memory.
class Buffer
{
public:
    explicit Buffer(size_t bytes)
    {
        cudaMalloc(&mData, bytes);
    }

    Buffer(void const* host, size_t bytes)
        : Buffer(bytes)
    {
        cudaMemcpy(mData, host, bytes, cudaMemcpyHostToDevice);
    }

    ~Buffer()
    {
        cudaFree(mData);
    }

    Buffer(Buffer const&) = delete;
    Buffer& operator=(Buffer const&) = delete;

    void* get() const
    {
        return mData;
    }

private:
    void* mData{nullptr};
};

} // namespace posewarp::cases
