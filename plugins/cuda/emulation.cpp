// The kernels' own source, compiled for the host and run there on the table of cases: blocks in turn, a block's threads
// as coroutines that change at __syncthreads. Where no GPU is, this proves indices, strides, layouts, tails and the
// order around shared memory. It cannot prove what only hardware shows: lockstep, alignment, limits, speed.
#include "cuda/cases.h"

#include <ucontext.h>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(threads)

namespace posewarp
{
namespace
{

constexpr size_t kSTACK = 64 * 1024;

uint3 threadIdx, blockIdx;
dim3 gridDim;
alignas(16) unsigned char shared[48 * 1024];

dim3 gMostBlocks; // a launch gets at most these: its strides must cover the rest
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
    gridDim = dim3(min(config->gridDim.x, gMostBlocks.x), min(config->gridDim.y, gMostBlocks.y));
    std::fill(shared, shared + sizeof(shared), 0xFF);
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
    {
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        {
            runBlock(config->blockDim.x, stacks);
        }
    }
    return config->dynamicSmemBytes <= sizeof(shared) ? cudaSuccess : cudaErrorInvalidConfiguration;
}

} // namespace
} // namespace posewarp

#include "cuda/grid_sample.cu"

int main()
{
    using namespace posewarp::cases;
    std::vector<Case> const tests = makeCases(/*crowds=*/false);
    int failures = 0;
    for (unsigned const most : {65535U, 1U})
    {
        posewarp::gMostBlocks = dim3(most, most);
        failures += countFailures(tests,
            [](Case const& test, Data const& data, std::vector<unsigned char>& output) -> std::string
            {
                cudaError_t const error = posewarp::launchGridSample(data.features.data(), data.grid.data(),
                    output.data(), test.type, test.layout, test.sizes, test.attributes, nullptr);
                return error == cudaSuccess ? "" : "refused with error " + std::to_string(error);
            });
    }
    std::printf("kernels on the host: %zu cases, %d failed\n", tests.size(), failures);
    return failures == 0 ? 0 : 1;
}
