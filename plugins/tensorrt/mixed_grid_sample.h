// MixedGridSample: GridSample whose features are fp32, fp16 or bf16 while its grid stays fp32.
//
//   inputs   features (N, C, [D,] H, W) of type T; grid (N, [Do,] Ho, Wo, 2|3), fp32, normalised
//   output   (N, C, [Do,] Ho, Wo) of type T
//   fields   mode, padding_mode (words), align_corners (0 or 1): the attributes of the portable ONNX node
//
// The equation is in core/grid_sample.h. No call throws; what is refused is logged with its reason.
#pragma once

#include "core/grid_sample.h"

#include <NvInferRuntime.h>

#include <array>

namespace posewarp
{

inline constexpr char const* kPLUGIN_NAME = "MixedGridSample";
inline constexpr char const* kPLUGIN_VERSION = "1";
inline constexpr char const* kPLUGIN_NAMESPACE = "posewarp";

// What the plugin library was given to log with, else stderr. printf's grammar.
void logError(char const* format, ...) noexcept __attribute__((format(printf, 1, 2)));

class MixedGridSample final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime
{
public:
    explicit MixedGridSample(Attributes const& attributes) noexcept;

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    char const* getPluginName() const noexcept override
    {
        return kPLUGIN_NAME;
    }
    char const* getPluginVersion() const noexcept override
    {
        return kPLUGIN_VERSION;
    }
    char const* getPluginNamespace() const noexcept override
    {
        return kPLUGIN_NAMESPACE;
    }

    int32_t getNbOutputs() const noexcept override
    {
        return 1;
    }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs, nvinfer1::DataType const* inputTypes,
        int32_t nbInputs) const noexcept override;
    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs, nvinfer1::DimsExprs const* shapeInputs,
        int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
        nvinfer1::IExprBuilder& exprBuilder) noexcept override;
    bool supportsFormatCombination(int32_t pos, nvinfer1::DynamicPluginTensorDesc const* inOut, int32_t nbInputs,
        int32_t nbOutputs) noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override;
    char const* getTimingCacheID() noexcept override
    {
        return mTimingCacheId.data();
    }

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs, nvinfer1::PluginTensorDesc const* out,
        int32_t nbOutputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        return &mCollection;
    }

private:
    Attributes const mAttributes;
    int32_t const mAlignCorners;
    std::array<char, 48> mTimingCacheId{};
    std::array<nvinfer1::PluginField, 3> const mFields; // points into this object: a clone makes its own
    nvinfer1::PluginFieldCollection const mCollection;
};

class MixedGridSampleCreator final : public nvinfer1::IPluginCreatorV3One
{
public:
    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;

    char const* getPluginName() const noexcept override
    {
        return kPLUGIN_NAME;
    }
    char const* getPluginVersion() const noexcept override
    {
        return kPLUGIN_VERSION;
    }
    char const* getPluginNamespace() const noexcept override
    {
        return kPLUGIN_NAMESPACE;
    }
};

} // namespace posewarp
