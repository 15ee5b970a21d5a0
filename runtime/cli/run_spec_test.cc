#include "cli/run_spec.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace wyvern::cli {
namespace {

using Json = nlohmann::json;

Json Spec(const RunOptions& options, const Image& image) {
  const auto text = MakeRunSpec(options, image);
  EXPECT_TRUE(text) << text.error().message();
  return Json::parse(*text);
}

Image SomeImage() {
  Image image;
  image.layers = {"/"};
  image.config.entrypoint = {"/entry"};
  image.config.command = {"default"};
  image.config.env = {"A=image", "PATH=/image"};
  return image;
}

TEST(RunSpecTest, CommandReplacesTheImagesCommandNotItsEntrypoint) {
  EXPECT_EQ(Spec({}, SomeImage())["process"]["args"], Json({"/entry", "default"}));
  RunOptions options;
  options.command = {"mine"};
  EXPECT_EQ(Spec(options, SomeImage())["process"]["args"], Json({"/entry", "mine"}));
}

TEST(RunSpecTest, EnvironmentOfTheUserBeatsTheImages) {
  RunOptions options;
  options.env = {"A=user", "WYVERN_SURELY_UNSET"};
  const Json env = Spec(options, SomeImage())["process"]["env"];
  EXPECT_EQ(env, Json({"PATH=/image", "A=user"}));
}

TEST(RunSpecTest, UserHasItsGroups) {
  RunOptions options;
  options.user = "1000:7";
  const Json expected = {{"uid", 1000}, {"gid", 7}, {"additionalGids", {7}}};
  EXPECT_EQ(Spec(options, SomeImage())["process"]["user"], expected);
}

TEST(RunSpecTest, WrongOptionsAreNamed) {
  RunOptions options;
  options.source = "dir";
  Image empty;
  empty.layers = {"/"};
  EXPECT_NE(MakeRunSpec(options, empty).error().message().find("wyvern run dir -- sh"),
            std::string::npos);
  options.volumes = {"relative"};
  EXPECT_EQ(MakeRunSpec(options, SomeImage()).error().code(), Code::kInvalidArgument);
  options.volumes = {"/tmp:relative"};
  EXPECT_EQ(MakeRunSpec(options, SomeImage()).error().code(), Code::kInvalidArgument);
  options.volumes = {"/does-not-exist:/x"};
  EXPECT_EQ(MakeRunSpec(options, SomeImage()).error().code(), Code::kNotFound);
  options.volumes = {};
  options.cwd = "relative";
  EXPECT_EQ(MakeRunSpec(options, SomeImage()).error().code(), Code::kInvalidArgument);
}

TEST(RunSpecTest, VolumesBecomeBindMounts) {
  RunOptions options;
  options.volumes = {"/tmp:/data:ro"};
  const Json mount = Spec(options, SomeImage())["mounts"].back();
  EXPECT_EQ(mount["destination"], "/data");
  EXPECT_EQ(mount["options"], Json({"rbind", "ro"}));
}

}  // namespace
}  // namespace wyvern::cli
