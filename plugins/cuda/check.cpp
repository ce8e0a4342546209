// Runs the kernels on the whole table of cases against the core on the host. Exit 0: all equal, or no GPU and said so.
#include "cuda/device.h"

int main()
{
    using namespace posewarp::cases;
    if (std::string const problem = findDeviceProblem(); !problem.empty())
    {
        std::printf("kernels: not executed, %s\n", problem.c_str());
        return 0;
    }
    std::vector<Case> const tests = makeCases(/*crowds=*/!kEMULATED);
    int const failures = countFailures(tests,
        onDevice(
            [](Case const& test, void* features, float* grid, void* output, cudaStream_t stream)
            {
                cudaError_t const error = posewarp::launchGridSample(
                    features, grid, output, test.type, test.layout, test.sizes, test.attributes, stream);
                return error == cudaSuccess ? std::string() : "launched with error " + std::to_string(error);
            }));
    std::printf("kernels%s: %zu cases, %d failed\n", kEMULATED ? ", emulated" : "", tests.size(), failures);
    return failures == 0 ? 0 : 1;
}
