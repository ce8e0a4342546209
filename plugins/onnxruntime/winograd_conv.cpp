// The nodes posewarp::WinogradConv and posewarp::WinogradConvRelu for ONNX Runtime on the CPU: a 3x3 convolution whose
// weights are transformed once, when the session is made.

#include "operators.h"

#include "../cpu/posewarp_cpu.h"
#include "../cpu/threads.h"
#include "../cpu/winograd.h"

namespace posewarp::ort
{
namespace
{

constexpr char kNAME[] = "WinogradConv", kWITH_RELU[] = "WinogradConvRelu";
constexpr size_t kFEATURES = 0, kWEIGHT = 1, kBIAS = 2;

struct Kernel
{
    Api const* mApi;
    bool mRelu;
    int64_t mInChannels, mOutChannels;
    std::vector<float> mTransformed, mBias;
};

Value const* constantOf(Api const* api, KernelInfo const* info, size_t index, char const* name)
{
    int constant{0};
    Value const* value{nullptr};
    check(api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
    if (constant == 0 || value == nullptr)
    {
        throw refusal(kNAME, std::string(name) + " is computed in the graph, expected an initializer");
    }
    return value;
}

Kernel* makeKernel(Api const* api, KernelInfo const* info, bool relu)
{
    Value const* const weight = constantOf(api, info, kWEIGHT, "weight");
    Value const* const bias = constantOf(api, info, kBIAS, "bias");
    std::vector<int64_t> const shape = readShape(api, weight);
    if (shape.size() != 4 || shape[2] != 3 || shape[3] != 3 || readShape(api, bias) != std::vector<int64_t>{shape[0]})
    {
        throw refusal(kNAME, "weight " + toText(shape) + " and bias " + toText(readShape(api, bias))
            + ", expected (outputs, inputs, 3, 3) and (outputs)");
    }
    auto kernel = std::make_unique<Kernel>();
    kernel->mApi = api;
    kernel->mRelu = relu;
    kernel->mOutChannels = shape[0];
    kernel->mInChannels = shape[1];
    kernel->mTransformed.resize(cpu::countTransformed(shape[1], shape[0]));
    cpu::transformWeights(dataOf<float>(api, weight), shape[1], shape[0], kernel->mTransformed.data());
    kernel->mBias.assign(dataOf<float>(api, bias), dataOf<float>(api, bias) + shape[0]);
    return kernel.release();
}

void compute(Kernel const& kernel, KernelContext* context)
{
    Api const* api = kernel.mApi;
    Value const* features{nullptr};
    check(api->KernelContext_GetInput(context, kFEATURES, &features));
    std::vector<int64_t> shape = readShape(api, features);
    if (shape.size() != 4 || shape[1] != kernel.mInChannels)
    {
        throw refusal(kNAME, "features " + toText(shape) + ", expected (N, " + std::to_string(kernel.mInChannels) + ", H, W)");
    }
    cpu::ConvSizes const sizes{shape[0], shape[1], kernel.mOutChannels, shape[2], shape[3]};
    shape[1] = kernel.mOutChannels;
    Value* output{nullptr};
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    Session session{api, context, nullptr};
    int const error = cpu::winogradConv(dataOf<float>(api, features), kernel.mTransformed.data(),
        {kernel.mBias.data(), kernel.mRelu}, dataOf<float>(api, output), sizes, {&parallelFor, &session, cpu::countCpus()});
    check(session.mFailed);
    if (error != POSEWARP_OK)
    {
        throw std::runtime_error(std::string(kNAME) + ": out of memory");
    }
}

// (N, outputs, H, W) of (N, inputs, H, W), named axes too.
void inferShape(Api const* api, ShapeContext* context)
{
    TypeAndShape* features{nullptr}; // the context's, as the weight's
    TypeAndShape* weight{nullptr};
    check(api->ShapeInferContext_GetInputTypeShape(context, kFEATURES, &features));
    check(api->ShapeInferContext_GetInputTypeShape(context, kWEIGHT, &weight));
    std::vector<int64_t> shape = readShape(api, features);
    std::vector<int64_t> const weights = readShape(api, weight);
    if (shape.size() != 4 || weights.size() != 4)
    {
        return;
    }
    std::vector<char const*> names(shape.size());
    check(api->GetSymbolicDimensions(features, names.data(), names.size()));
    shape[1] = weights[0];
    names[1] = "";
    for (size_t i = 0; i < shape.size(); ++i)
    {
        if (shape[i] < 0 && *names[i] == '\0')
        {
            return;
        }
    }
    TypeAndShape* info{nullptr};
    check(api->CreateTensorTypeAndShapeInfo(&info));
    OwnedShape const owned(info, api->ReleaseTensorTypeAndShapeInfo);
    check(api->SetTensorElementType(info, kFLOAT));
    check(api->SetDimensions(info, shape.data(), shape.size()));
    check(api->SetSymbolicDimensions(info, names.data(), names.size()));
    check(api->ShapeInferContext_SetOutputTypeShape(context, 0, info));
}

} // namespace

Op makeWinogradConv(Api const* api, bool relu)
{
    Op op{};
    setDefaults(op);
    op.mApi = api;
    op.mType = kFLOAT;
    op.GetName = relu ? [](CustomOp const*) { return kWITH_RELU; } : [](CustomOp const*) { return kNAME; };
    op.GetInputType = [](CustomOp const*, size_t) { return kFLOAT; };
    op.GetInputTypeCount = [](CustomOp const*) -> size_t { return 3; };
    op.GetOutputType = [](CustomOp const*, size_t) { return kFLOAT; };
    op.CreateKernel = [](CustomOp const* self, Api const* api, KernelInfo const* info, void** kernel) {
        return guarded(api, [&] { *kernel = makeKernel(api, info, self->GetName(self) == kWITH_RELU); });
    };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.KernelCompute = [](void* kernel, KernelContext* context) {
        Kernel const& self = *static_cast<Kernel*>(kernel);
        return guarded(self.mApi, [&] { compute(self, context); });
    };
    op.InferOutputShape = [](CustomOp const* self, ShapeContext* context) {
        return guarded(cast(self).mApi, [&] { inferShape(cast(self).mApi, context); });
    };
    return op;
}

} // namespace posewarp::ort
