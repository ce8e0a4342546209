// The kernels' own source, compiled for the host and run there on the table of cases: blocks in turn, a block's threads
// as coroutines that change at __syncthreads. Where no GPU is, this proves indices, strides, layouts, tails and the
// order around shared memory. It cannot prove what only hardware shows: lockstep, alignment, limits, speed.
//
// POSEWARP_EMULATED_BLOCKS=1 gives a launch one block along each axis: its strides must cover the rest.
#include "cuda/device.h"

#include <cstdlib>

#include <ucontext.h>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)

namespace posewarp
{
namespace
{

constexpr size_t kSTACK = 64 * 1024;

uint3 threadIdx, blockIdx;
dim3 gridDim;
alignas(16) unsigned char shared[48 * 1024];

ucontext_t gScheduler;
ucontext_t* gThread;
std::function<void()> gKernel;
bool gFinished;

void enterThread()
{
    gKernel();
    gFinished = true;
}

void __syncthreads()
{
    swapcontext(gThread, &gScheduler);
}

uint4 __ldg(uint4 const* place)
{
    return *place;
}

using std::min;

// In rounds, each from barrier to barrier, until all threads have returned.
void runBlock(unsigned threads, std::vector<unsigned char>& stacks)
{
    std::vector<ucontext_t> contexts(threads);
    std::vector<bool> finished(threads, false);
    for (unsigned i = 0; i < threads; ++i)
    {
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = stacks.data() + i * kSTACK;
        contexts[i].uc_stack.ss_size = kSTACK;
        contexts[i].uc_link = &gScheduler;
        makecontext(&contexts[i], enterThread, 0);
    }
    while (std::count(finished.begin(), finished.end(), false) > 0)
    {
        for (unsigned i = 0; i < threads; ++i)
        {
            if (!finished[i])
            {
                threadIdx = {i, 0, 0};
                gThread = &contexts[i];
                gFinished = false;
                swapcontext(&gScheduler, gThread);
                finished[i] = gFinished;
            }
        }
    }
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(Parameters...), Arguments... arguments)
{
    static std::vector<unsigned char> stacks(config->blockDim.x * kSTACK);
    gKernel = [=] { kernel(arguments...); };
    char const* const most = std::getenv("POSEWARP_EMULATED_BLOCKS");
    unsigned const limit = most == nullptr ? UINT32_MAX : static_cast<unsigned>(std::atoi(most));
    dim3 const asked = config->gridDim;
    gridDim = dim3(min(asked.x, limit), min(asked.y, limit), min(asked.z, limit));
    std::fill(shared, shared + sizeof(shared), 0xFF);
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
    {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
        {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
            {
                runBlock(config->blockDim.x, stacks);
            }
        }
    }
    return config->dynamicSmemBytes <= sizeof(shared) ? cudaSuccess : cudaErrorInvalidConfiguration;
}

} // namespace
} // namespace posewarp

#include "cuda/grid_sample.cu"

namespace posewarp::cases
{

bool const kEMULATED = true;

std::string findDeviceProblem()
{
    return "";
}

Run onDevice(Launch const& launch)
{
    return [launch](Case const& test, Data const& data, std::vector<unsigned char>& output) -> std::string
    {
        return launch(test, const_cast<unsigned char*>(data.features.data()), const_cast<float*>(data.grid.data()),
            output.data(), nullptr);
    };
}

std::string repeatAsGraph(cudaStream_t, std::function<std::string()> const&)
{
    return "";
}

} // namespace posewarp::cases
