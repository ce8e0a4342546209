// The plugin's contract with TensorRT, checked on the library as it ships, without a TensorRT: this program plays the
// registry, the builder and the runtime. Without a GPU all is checked but the kernels, and it says so; with one,
// enqueue is called directly, and once more as a captured CUDA graph, against the core on the host.
#pragma once

#include "cuda/grid_sample.h"

#include <NvInferRuntime.h>

#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace posewarp::contract
{

using namespace nvinfer1;

void checkCreator();
void checkRoundTrips();
void checkRefusedFields();
void checkShapes();
void checkFormats();
void checkEnqueueRefusals();
void checkEnqueue(); // on a GPU

// Counts and prints a claim that does not hold.
void expect(bool holds, std::string const& claim);

// What the plugin has logged since this was called last.
std::string takeLog();

// After a refusal: the reason was logged, and names what was wrong.
void expectLogged(std::string const& words, std::string const& claim);

using Fields = std::vector<PluginField>;

inline std::string const kMODES[]{"bilinear", "nearest", "bicubic"};
inline std::string const kPADDINGS[]{"zeros", "border", "reflection"};

IPluginCreatorV3One& creator();
std::unique_ptr<IPluginV3> create(Fields const& fields, TensorRTPhase phase = TensorRTPhase::kBUILD);
std::unique_ptr<IPluginV3> create(Attributes const& attributes);

// Fields that point to `value`: it must outlive them.
PluginField text(char const* name, std::string const& value, bool terminated = true);
PluginField number(char const* name, int32_t const& value);

template <typename Capability> Capability& as(IPluginV3& plugin, PluginCapabilityType type)
{
    return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

inline IPluginV3OneBuild& build(IPluginV3& plugin)
{
    return as<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
}

inline IPluginV3OneRuntime& runtime(IPluginV3& plugin)
{
    return as<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

} // namespace posewarp::contract
