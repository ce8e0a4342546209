// Device memory for the programs that check and time; nothing of it is in the library.
#pragma once

#include "cuda/cases.h"

#include <cuda_runtime_api.h>

namespace posewarp::cases
{

// Why nothing can be run on a GPU here, or "".
inline std::string findDeviceProblem()
{
    int version = 0, count = 0;
    cudaDriverGetVersion(&version);
    if (version == 0)
    {
        return "no CUDA driver";
    }
    cudaError_t const error = cudaGetDeviceCount(&count);
    return error != cudaSuccess ? cudaGetErrorString(error) : count == 0 ? "no GPU" : "";
}

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

// Runs cases through a launch on device pointers: launch(test, features, grid, output, stream) returns "" or why not.
template <typename Launch> Run onDevice(Launch const& launch)
{
    return [launch](Case const& test, Data const& data, std::vector<unsigned char>& output) -> std::string
    {
        Buffer const features(data.features.data(), data.features.size());
        Buffer const grid(data.grid.data(), data.grid.size() * sizeof(float));
        Buffer const result(output.data(), output.size());
        cudaStream_t stream;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        std::string problem = launch(test, features.get(), static_cast<float*>(grid.get()), result.get(), stream);
        cudaError_t const error = cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
        if (problem.empty() && error != cudaSuccess)
        {
            problem = cudaGetErrorString(error);
        }
        if (problem.empty()
            && cudaMemcpy(output.data(), result.get(), output.size(), cudaMemcpyDeviceToHost) != cudaSuccess)
        {
            problem = "the output could not be read back";
        }
        return problem;
    };
}

} // namespace posewarp::cases
