// The node posewarp::MixedGridSample for ONNX Runtime on the CPU: reads attributes and shapes, calls the kernel.

#include "operators.h"

#include "../cpu/posewarp_cpu.h"
#include "../cpu/threads.h"

namespace posewarp::ort
{
namespace
{

constexpr char kNAME[] = "MixedGridSample";
constexpr size_t kFEATURES = 0;
constexpr size_t kGRID = 1;

struct Kernel
{
    Api const* mApi;
    ElementType mType;
    Attributes mAttributes;
};

// The place of an attribute's word among those it may have.
template <size_t kCOUNT>
int32_t readWord(Api const* api, KernelInfo const* info, char const* name, char const* const (&words)[kCOUNT])
{
    std::string text(64, '\0');
    size_t size = text.size(); // with the closing zero; more is an error
    if (Status* missing = api->KernelInfoGetAttribute_string(info, name, text.data(), &size))
    {
        api->ReleaseStatus(missing);
        throw refusal(kNAME, std::string("attribute ") + name + " is missing, or not a word");
    }
    text.resize(size - 1);
    std::string known;
    for (size_t i = 0; i < kCOUNT; ++i)
    {
        if (text == words[i])
        {
            return static_cast<int32_t>(i);
        }
        known += (i == 0 ? "" : ", ") + std::string(words[i]);
    }
    throw refusal(kNAME, std::string("attribute ") + name + " is '" + text + "', expected one of " + known);
}

Attributes readAttributes(Api const* api, KernelInfo const* info)
{
    int32_t const mode = readWord(api, info, "mode", {"bilinear", "nearest", "bicubic"});
    int32_t const padding = readWord(api, info, "padding_mode", {"zeros", "border", "reflection"});
    int64_t alignCorners{-1};
    if (Status* missing = api->KernelInfoGetAttribute_int64(info, "align_corners", &alignCorners))
    {
        api->ReleaseStatus(missing);
    }
    if (alignCorners != 0 && alignCorners != 1)
    {
        throw refusal(kNAME, "attribute align_corners is missing, or neither 0 nor 1");
    }
    return {static_cast<Mode>(mode), static_cast<Padding>(padding), alignCorners == 1};
}

Sizes toSizes(std::vector<int64_t> const& features, std::vector<int64_t> const& grid)
{
    size_t const rank = features.size();
    if ((rank != 4 && rank != 5) || grid.size() != rank || grid.back() != static_cast<int64_t>(rank - 2)
        || grid[0] != features[0])
    {
        throw refusal(kNAME, "features " + toText(features) + " and grid " + toText(grid)
            + ", expected (N, C, H, W) and (N, Ho, Wo, 2), or (N, C, D, H, W) and (N, Do, Ho, Wo, 3)");
    }
    bool const volume = rank == 5;
    return {static_cast<int32_t>(rank - 2), features[0], features[1], volume ? features[2] : 1, features[rank - 2],
        features[rank - 1], volume ? grid[1] : 1, grid[rank - 3], grid[rank - 2]};
}

// (N, C) of the features and [Do,] Ho, Wo of the grid.
template <class Size>
std::vector<Size> outputShape(std::vector<Size> const& features, std::vector<Size> const& grid)
{
    std::vector<Size> shape(features.begin(), features.begin() + 2);
    shape.insert(shape.end(), grid.begin() + 1, grid.end() - 1);
    return shape;
}

cpu::Dtype toDtype(ElementType type)
{
    return type == kFLOAT ? cpu::Dtype::kFP32 : type == kFLOAT16 ? cpu::Dtype::kFP16 : cpu::Dtype::kBF16;
}

void compute(Kernel const& kernel, KernelContext* context)
{
    Api const* api = kernel.mApi;
    Value const* features{nullptr};
    Value const* grid{nullptr};
    Value* output{nullptr};
    check(api->KernelContext_GetInput(context, kFEATURES, &features));
    check(api->KernelContext_GetInput(context, kGRID, &grid));
    std::vector<int64_t> const image = readShape(api, features);
    std::vector<int64_t> const positions = readShape(api, grid);
    Sizes const sizes = toSizes(image, positions);
    if (char const* problem = findProblem(sizes, kernel.mAttributes))
    {
        throw refusal(kNAME, problem);
    }
    std::vector<int64_t> const shape = outputShape(image, positions);
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    Session session{api, context, nullptr};
    cpu::Problem const problem{dataOf<void>(api, features), toDtype(kernel.mType), dataOf<float>(api, grid),
        dataOf<void>(api, output), sizes, kernel.mAttributes};
    int const error = cpu::gridSample(problem, {&parallelFor, &session, cpu::countCpus()});
    check(session.mFailed);
    if (error != POSEWARP_OK)
    {
        throw std::runtime_error(std::string(kNAME) + (error == POSEWARP_NO_MEMORY ? ": out of memory" : ": refused"));
    }
}

// Static shapes let ONNX Runtime plan memory and choose layouts ahead; what cannot be told is left open.
void inferShape(Op const& op, ShapeContext* context)
{
    Api const* api = op.mApi;
    std::vector<int64_t> sizes[2];
    std::vector<char const*> names[2];
    ElementType types[2]{};
    for (size_t i : {kFEATURES, kGRID})
    {
        TypeAndShape* info{nullptr}; // the context's
        check(api->ShapeInferContext_GetInputTypeShape(context, i, &info));
        check(api->GetTensorElementType(info, &types[i])); // ONNX Runtime asks one operator for the types of all
        sizes[i] = readShape(api, info);
        names[i].resize(sizes[i].size());
        check(api->GetSymbolicDimensions(info, names[i].data(), names[i].size()));
    }
    if (sizes[kFEATURES].size() < 4 || sizes[kGRID].size() != sizes[kFEATURES].size())
    {
        return;
    }
    std::vector<int64_t> const shape = outputShape(sizes[kFEATURES], sizes[kGRID]);
    std::vector<char const*> const shapeNames = outputShape(names[kFEATURES], names[kGRID]);
    for (size_t i = 0; i < shape.size(); ++i)
    {
        if (shape[i] < 0 && *shapeNames[i] == '\0')
        {
            return;
        }
    }
    TypeAndShape* info{nullptr};
    check(api->CreateTensorTypeAndShapeInfo(&info));
    OwnedShape const owned(info, api->ReleaseTensorTypeAndShapeInfo);
    check(api->SetTensorElementType(info, types[kFEATURES]));
    check(api->SetDimensions(info, shape.data(), shape.size()));
    check(api->SetSymbolicDimensions(info, const_cast<char const**>(shapeNames.data()), shapeNames.size()));
    check(api->ShapeInferContext_SetOutputTypeShape(context, 0, info));
}

} // namespace

// One for each type of the features; the grid is always fp32.
Op makeMixedGridSample(Api const* api, ElementType type)
{
    Op op{};
    setDefaults(op);
    op.mApi = api;
    op.mType = type;
    op.GetName = [](CustomOp const*) { return kNAME; };
    op.GetInputType = [](CustomOp const* self, size_t index) { return index == kGRID ? kFLOAT : cast(self).mType; };
    op.GetInputTypeCount = [](CustomOp const*) -> size_t { return 2; };
    op.GetOutputType = [](CustomOp const* self, size_t) { return cast(self).mType; };
    op.CreateKernel = [](CustomOp const* self, Api const* api, KernelInfo const* info, void** kernel) {
        return guarded(api, [&] { *kernel = new Kernel{api, cast(self).mType, readAttributes(api, info)}; });
    };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.KernelCompute = [](void* kernel, KernelContext* context) {
        Kernel const& self = *static_cast<Kernel*>(kernel);
        return guarded(self.mApi, [&] { compute(self, context); });
    };
    op.InferOutputShape = [](CustomOp const* self, ShapeContext* context) {
        return guarded(cast(self).mApi, [&] { inferShape(cast(self), context); });
    };
    return op;
}

} // namespace posewarp::ort
