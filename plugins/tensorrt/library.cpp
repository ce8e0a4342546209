// The two entry points that TensorRT's plugin registry looks up in a plugin library; all else is hidden.
#include "tensorrt/mixed_grid_sample.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace
{

std::atomic<nvinfer1::ILoggerFinder*> gLoggerFinder{nullptr};

} // namespace

namespace posewarp
{

void logError(char const* format, ...) noexcept
{
    char message[512];
    int const start = std::snprintf(message, sizeof(message), "posewarp::%s: ", kPLUGIN_NAME);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message + start, sizeof(message) - start, format, arguments);
    va_end(arguments);
    nvinfer1::ILoggerFinder* const finder = gLoggerFinder.load();
    if (nvinfer1::ILogger* const logger = finder ? finder->findLogger() : nullptr)
    {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message);
    }
    else
    {
        std::fprintf(stderr, "%s\n", message);
    }
}

} // namespace posewarp

#define POSEWARP_EXPORT extern "C" __attribute__((visibility("default")))

POSEWARP_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    gLoggerFinder.store(finder);
}

POSEWARP_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static posewarp::MixedGridSampleCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[]{&creator};
    count = 1;
    return creators;
}
