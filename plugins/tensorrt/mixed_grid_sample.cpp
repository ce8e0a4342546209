#include "tensorrt/mixed_grid_sample.h"

#include "cuda/grid_sample.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>
#include <string_view>

using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace posewarp
{
namespace
{

// The words of the ONNX attributes, in the order of the core's enums.
constexpr std::array<std::string_view, 3> kMODES{"bilinear", "nearest", "bicubic"};
constexpr std::array<std::string_view, 3> kPADDINGS{"zeros", "border", "reflection"};

constexpr char const* kMODE_FIELD = "mode";
constexpr char const* kPADDING_FIELD = "padding_mode";
constexpr char const* kALIGN_FIELD = "align_corners";

constexpr int32_t kFAILED = -1; // TensorRT takes 0 for done, anything else for failed

struct Kind
{
    DataType type;
    TensorFormat format;
    Type sampled;
    Layout layout;
};
constexpr std::array<Kind, 4> kKINDS{{
    {DataType::kFLOAT, TensorFormat::kLINEAR, Type::kFLOAT, Layout::kNCHW},
    {DataType::kHALF, TensorFormat::kLINEAR, Type::kHALF, Layout::kNCHW},
    {DataType::kHALF, TensorFormat::kHWC8, Type::kHALF, Layout::kHWC8},
    {DataType::kBF16, TensorFormat::kLINEAR, Type::kBFLOAT16, Layout::kNCHW},
}};

Kind const* findKind(PluginTensorDesc const& features) noexcept
{
    for (Kind const& kind : kKINDS)
    {
        if (kind.type == features.type && kind.format == features.format
            && (kind.layout == Layout::kNCHW || features.dims.nbDims == 4))
        {
            return &kind;
        }
    }
    return nullptr;
}

bool isFp32Linear(PluginTensorDesc const& grid) noexcept
{
    return grid.type == DataType::kFLOAT && grid.format == TensorFormat::kLINEAR;
}

PluginField textField(char const* name, std::string_view text) noexcept
{
    return {name, text.data(), PluginFieldType::kCHAR, static_cast<int32_t>(text.size() + 1)}; // with the final NUL
}

// Sizes of one call from its descriptors; false, with the reason logged, if they do not belong together.
bool readSizes(
    PluginTensorDesc const* in, PluginTensorDesc const& out, Attributes const& attributes, Sizes& sizes) noexcept
{
    nvinfer1::Dims const& features = in[0].dims;
    nvinfer1::Dims const& grid = in[1].dims;
    int32_t const rank = features.nbDims;
    if ((rank != 4 && rank != 5) || grid.nbDims != rank || out.dims.nbDims != rank)
    {
        logError("features, grid and output have %d, %d and %d dimensions; all must have 4, or all 5", rank,
            grid.nbDims, out.dims.nbDims);
        return false;
    }
    bool same = grid.d[0] == features.d[0] && out.dims.d[0] == features.d[0] && out.dims.d[1] == features.d[1]
        && grid.d[rank - 1] == rank - 2;
    for (int32_t i = 2; i < rank; ++i)
    {
        same = same && out.dims.d[i] == grid.d[i - 1];
    }
    if (!same)
    {
        logError("the shapes of features, grid and output do not fit: expected (N, C, [D,] H, W), "
                 "(N, [Do,] Ho, Wo, %d) and (N, C, [Do,] Ho, Wo), got N %lld and %lld, last size of grid %lld",
            rank - 2, static_cast<long long>(features.d[0]), static_cast<long long>(grid.d[0]),
            static_cast<long long>(grid.d[rank - 1]));
        return false;
    }
    bool const volume = rank == 5;
    sizes = {rank - 2, features.d[0], features.d[1], volume ? features.d[2] : 1, features.d[rank - 2],
        features.d[rank - 1], volume ? grid.d[1] : 1, grid.d[rank - 3], grid.d[rank - 2]};
    if (char const* const problem = findProblem(sizes, attributes))
    {
        logError("%s", problem);
        return false;
    }
    return true;
}

// A word of a text field, which may or may not end with NUL; its place in `words`, or -1 with the reason logged.
template <size_t kCOUNT>
int32_t readWord(PluginField const& field, std::array<std::string_view, kCOUNT> const& words) noexcept
{
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 1)
    {
        logError("field %s must be text (kCHAR), got type %d of length %d", field.name,
            static_cast<int32_t>(field.type), field.length);
        return -1;
    }
    std::string_view text(static_cast<char const*>(field.data), static_cast<size_t>(field.length));
    if (text.back() == '\0')
    {
        text.remove_suffix(1);
    }
    auto const found = std::find(words.begin(), words.end(), text);
    if (found == words.end())
    {
        logError("field %s does not know %.*s", field.name, static_cast<int32_t>(text.size()), text.data());
        return -1;
    }
    return static_cast<int32_t>(found - words.begin());
}

// 0 or 1 of a field of one integer, -1 with the reason logged otherwise. The parser gives int32 of length 1.
int32_t readFlag(PluginField const& field) noexcept
{
    int64_t value = -1;
    bool const isInt32 = field.type == PluginFieldType::kINT32;
    if (field.data != nullptr && field.length == 1 && (isInt32 || field.type == PluginFieldType::kINT64))
    {
        value = isInt32 ? *static_cast<int32_t const*>(field.data) : *static_cast<int64_t const*>(field.data);
    }
    if (value != 0 && value != 1)
    {
        logError("field %s must be one int32 or int64 of value 0 or 1, got type %d, length %d, value %lld", field.name,
            static_cast<int32_t>(field.type), field.length, static_cast<long long>(value));
        return -1;
    }
    return static_cast<int32_t>(value);
}

} // namespace

MixedGridSample::MixedGridSample(Attributes const& attributes) noexcept
    : mAttributes(attributes)
    , mAlignCorners(attributes.alignCorners ? 1 : 0)
    , mFields{textField(kMODE_FIELD, kMODES[static_cast<size_t>(attributes.mode)]),
          textField(kPADDING_FIELD, kPADDINGS[static_cast<size_t>(attributes.padding)]),
          PluginField{kALIGN_FIELD, &mAlignCorners, PluginFieldType::kINT32, 1}}
    , mCollection{static_cast<int32_t>(mFields.size()), mFields.data()}
{
    std::snprintf(mTimingCacheId.data(), mTimingCacheId.size(), "%s/%s/%d",
        kMODES[static_cast<size_t>(attributes.mode)].data(), kPADDINGS[static_cast<size_t>(attributes.padding)].data(),
        mAlignCorners);
}

nvinfer1::IPluginCapability* MixedGridSample::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* MixedGridSample::clone() noexcept
{
    return new (std::nothrow) MixedGridSample(mAttributes);
}

nvinfer1::IPluginV3* MixedGridSample::attachToContext(nvinfer1::IPluginResourceContext*) noexcept
{
    return clone();
}

int32_t MixedGridSample::getOutputDataTypes(
    DataType* outputTypes, int32_t nbOutputs, DataType const* inputTypes, int32_t nbInputs) const noexcept
{
    if (nbInputs != 2 || nbOutputs != 1)
    {
        logError("expected 2 inputs and 1 output, got %d and %d", nbInputs, nbOutputs);
        return kFAILED;
    }
    bool const known
        = std::any_of(kKINDS.begin(), kKINDS.end(), [&](Kind const& kind) { return kind.type == inputTypes[0]; });
    if (!known || inputTypes[1] != DataType::kFLOAT)
    {
        logError("features must be fp32, fp16 or bf16 and grid fp32; got DataType %d and %d",
            static_cast<int32_t>(inputTypes[0]), static_cast<int32_t>(inputTypes[1]));
        return kFAILED;
    }
    outputTypes[0] = inputTypes[0];
    return 0;
}

int32_t MixedGridSample::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*,
    int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs, nvinfer1::IExprBuilder&) noexcept
{
    if (nbInputs != 2 || nbShapeInputs != 0 || nbOutputs != 1)
    {
        logError(
            "expected 2 inputs, no shape input and 1 output, got %d, %d and %d", nbInputs, nbShapeInputs, nbOutputs);
        return kFAILED;
    }
    int32_t const rank = inputs[0].nbDims;
    if ((rank != 4 && rank != 5) || inputs[1].nbDims != rank)
    {
        logError("features and grid have %d and %d dimensions; both must have 4, or both 5", rank, inputs[1].nbDims);
        return kFAILED;
    }
    if (rank == 5 && mAttributes.mode == Mode::kBICUBIC)
    {
        logError("mode bicubic is for 4-D features, got 5-D ones");
        return kFAILED;
    }
    nvinfer1::IDimensionExpr const* const last = inputs[1].d[rank - 1];
    if (last->isConstant() && last->getConstantValue() != rank - 2)
    {
        logError("the last size of a %d-D grid must be %d, got %lld", rank, rank - 2,
            static_cast<long long>(last->getConstantValue()));
        return kFAILED;
    }
    outputs[0].nbDims = rank;
    outputs[0].d[0] = inputs[0].d[0];
    outputs[0].d[1] = inputs[0].d[1];
    for (int32_t i = 2; i < rank; ++i)
    {
        outputs[0].d[i] = inputs[1].d[i - 1];
    }
    return 0;
}

bool MixedGridSample::supportsFormatCombination(
    int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t nbInputs, int32_t nbOutputs) noexcept
{
    if (nbInputs != 2 || nbOutputs != 1)
    {
        return false;
    }
    // Those before pos are settled, those after it are not to be read.
    PluginTensorDesc const& features = inOut[0].desc;
    PluginTensorDesc const& asked = inOut[pos].desc;
    switch (pos)
    {
    case 0: return findKind(features) != nullptr;
    case 1: return isFp32Linear(asked);
    case 2: return asked.type == features.type && asked.format == features.format;
    default: return false;
    }
}

int32_t MixedGridSample::configurePlugin(
    DynamicPluginTensorDesc const*, int32_t nbInputs, DynamicPluginTensorDesc const*, int32_t nbOutputs) noexcept
{
    return nbInputs == 2 && nbOutputs == 1 ? 0 : kFAILED;
}

int32_t MixedGridSample::onShapeChange(
    PluginTensorDesc const* in, int32_t nbInputs, PluginTensorDesc const* out, int32_t nbOutputs) noexcept
{
    Sizes sizes{};
    return nbInputs == 2 && nbOutputs == 1 && readSizes(in, out[0], mAttributes, sizes) ? 0 : kFAILED;
}

int32_t MixedGridSample::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const* outputDesc,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    Sizes sizes{};
    Kind const* const kind = findKind(inputDesc[0]);
    if (kind == nullptr || !isFp32Linear(inputDesc[1]) || outputDesc[0].type != inputDesc[0].type
        || outputDesc[0].format != inputDesc[0].format)
    {
        logError("enqueue was given types or formats that the plugin does not support");
        return kFAILED;
    }
    if (!readSizes(inputDesc, outputDesc[0], mAttributes, sizes))
    {
        return kFAILED;
    }
    cudaError_t const error = launchGridSample(inputs[0], static_cast<float const*>(inputs[1]), outputs[0],
        kind->sampled, kind->layout, sizes, mAttributes, stream);
    if (error != cudaSuccess)
    {
        logError("the kernel could not be launched: %s", cudaGetErrorString(error));
        return kFAILED;
    }
    return 0;
}

PluginFieldCollection const* MixedGridSampleCreator::getFieldNames() noexcept
{
    static PluginField const fields[]{
        {kMODE_FIELD, nullptr, PluginFieldType::kCHAR, 1},
        {kPADDING_FIELD, nullptr, PluginFieldType::kCHAR, 1},
        {kALIGN_FIELD, nullptr, PluginFieldType::kINT32, 1},
    };
    static PluginFieldCollection const collection{3, fields};
    return &collection;
}

nvinfer1::IPluginV3* MixedGridSampleCreator::createPlugin(
    char const* name, PluginFieldCollection const* collection, nvinfer1::TensorRTPhase) noexcept
{
    // Each must come exactly once: a missing one, read as a default, would sample otherwise without a word.
    int32_t mode = -1, padding = -1, align = -1;
    bool refused = collection == nullptr;
    for (int32_t i = 0; !refused && i < collection->nbFields; ++i)
    {
        PluginField const& field = collection->fields[i];
        std::string_view const key = field.name == nullptr ? "" : field.name;
        auto const take = [&](int32_t& value, int32_t read)
        {
            if (value >= 0)
            {
                logError("field %s is given twice", field.name);
            }
            refused = read < 0 || value >= 0;
            value = read;
        };
        if (key == kMODE_FIELD)
        {
            take(mode, readWord(field, kMODES));
        }
        else if (key == kPADDING_FIELD)
        {
            take(padding, readWord(field, kPADDINGS));
        }
        else if (key == kALIGN_FIELD)
        {
            take(align, readFlag(field));
        }
        else if (key == "plugin_namespace")
        { // on every node: how a parser found us
            refused = readWord<1>(field, {kPLUGIN_NAMESPACE}) < 0;
        }
        else if (key == "plugin_version")
        {
            refused = readWord<1>(field, {kPLUGIN_VERSION}) < 0;
        }
        else
        {
            logError("unknown field %s", field.name == nullptr ? "(no name)" : field.name);
            refused = true;
        }
    }
    if (!refused && (mode < 0 || padding < 0 || align < 0))
    {
        logError("missing field%s%s%s", mode < 0 ? " mode" : "", padding < 0 ? " padding_mode" : "",
            align < 0 ? " align_corners" : "");
        refused = true;
    }
    if (refused)
    {
        logError("%s is not created", name == nullptr ? "a plugin" : name);
        return nullptr;
    }
    return new (std::nothrow) MixedGridSample({static_cast<Mode>(mode), static_cast<Padding>(padding), align == 1});
}

} // namespace posewarp
