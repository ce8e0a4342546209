#include "cuda/device.h"

namespace posewarp::cases
{

bool const kEMULATED = false;

std::string findDeviceProblem()
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

Run onDevice(Launch const& launch)
{
    return [launch](Case const& test, Data const& data, std::vector<unsigned char>& output) -> std::string
    {
        Buffer const features(data.features.data(), data.features.size());
        Buffer const grid(data.grid.data(), data.grid.size() * sizeof(float));
        Buffer const result(output.data(), output.size());
        cudaStream_t stream;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        std::string problem = launch(test, features.get(), static_cast<float*>(grid.get()), result.get(), stream);
        cudaError_t error = cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
        error = error == cudaSuccess ? cudaMemcpy(output.data(), result.get(), output.size(), cudaMemcpyDeviceToHost)
                                     : error;
        return !problem.empty() || error == cudaSuccess ? problem : cudaGetErrorString(error);
    };
}

std::string repeatAsGraph(cudaStream_t stream, std::function<std::string()> const& enqueue)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    std::string const problem = enqueue();
    cudaError_t error = cudaStreamEndCapture(stream, &graph);
    error = error == cudaSuccess ? cudaGraphInstantiate(&executable, graph, 0) : error;
    error = error == cudaSuccess ? cudaGraphLaunch(executable, stream) : error;
    error = error == cudaSuccess ? cudaStreamSynchronize(stream) : error;
    if (executable != nullptr)
    {
        cudaGraphExecDestroy(executable);
    }
    if (graph != nullptr)
    {
        cudaGraphDestroy(graph);
    }
    return !problem.empty() || error == cudaSuccess ? problem : std::string("as a graph: ") + cudaGetErrorString(error);
}

} // namespace posewarp::cases
