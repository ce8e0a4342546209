#include "tensorrt/contract/contract.h"

#include "cuda/device.h"

namespace posewarp::contract
{
namespace
{

int gFailures = 0;

class Log : public ILogger, public ILoggerFinder
{
public:
    void log(Severity, char const* message) noexcept override
    {
        mText += message;
    }

    ILogger* findLogger() override
    {
        return this;
    }

    std::string take()
    {
        return std::exchange(mText, "");
    }

private:
    std::string mText;
};

Log gLog;

} // namespace

void expect(bool holds, std::string const& claim)
{
    if (!holds)
    {
        ++gFailures;
        std::printf("FAILED %s\n", claim.c_str());
    }
}

std::string takeLog()
{
    return gLog.take();
}

void expectLogged(std::string const& words, std::string const& claim)
{
    std::string const log = takeLog();
    expect(log.find(words) != std::string::npos, claim + ": expected a reason with '" + words + "', got '" + log + "'");
}

IPluginCreatorV3One& creator()
{
    int32_t count = 0;
    return *static_cast<IPluginCreatorV3One*>(getCreators(count)[0]);
}

std::unique_ptr<IPluginV3> create(Fields const& fields, TensorRTPhase phase)
{
    PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
    return std::unique_ptr<IPluginV3>(creator().createPlugin("warp", &collection, phase));
}

PluginField text(char const* name, std::string const& value, bool terminated)
{
    return {name, value.c_str(), PluginFieldType::kCHAR, static_cast<int32_t>(value.size() + terminated)};
}

PluginField number(char const* name, int32_t const& value)
{
    return {name, &value, PluginFieldType::kINT32, 1};
}

std::unique_ptr<IPluginV3> create(Attributes const& attributes)
{
    int32_t const align = attributes.alignCorners;
    return create({text("mode", kMODES[(int)attributes.mode]), text("padding_mode", kPADDINGS[(int)attributes.padding]),
        number("align_corners", align)});
}

int run()
{
    setLoggerFinder(&gLog);
    checkCreator();
    checkRoundTrips();
    checkRefusedFields();
    checkShapes();
    checkFormats();
    checkEnqueueRefusals();
    if (std::string const problem = cases::findDeviceProblem(); problem.empty())
    {
        checkEnqueue();
    }
    else
    {
        std::printf("enqueue: not executed, %s\n", problem.c_str());
    }
    std::printf("contract: %s\n", gFailures == 0 ? "kept" : "broken");
    return gFailures == 0 ? 0 : 1;
}

} // namespace posewarp::contract

int main()
{
    return posewarp::contract::run();
}
