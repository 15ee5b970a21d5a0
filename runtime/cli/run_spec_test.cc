#include "cli/run_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(RunSpecTest, UserNetworkIsTheHostsNamespaceWithANameServer) {
  const auto networks = [](const Json& spec) {
    return std::ranges::count_if(spec["linux"]["namespaces"],
                                 [](const Json& each) { return each["type"] == "network"; });
  };
  const auto resolvers = [](const Json& spec) {
    return std::ranges::count_if(spec["mounts"], [](const Json& each) {
      return each["destination"] == "/etc/resolv.conf" && each["source"] == "resolv.conf";
    });
  };
  EXPECT_EQ(networks(Spec({}, SomeImage())), 1);
  EXPECT_EQ(resolvers(Spec({}, SomeImage())), 0);
  RunOptions options;
  options.net = "user";
  EXPECT_EQ(networks(Spec(options, SomeImage())), 0);
  EXPECT_EQ(resolvers(Spec(options, SomeImage())), 1);
  // No file is made in a directory of the user's.
  Image directory = SomeImage();
  directory.is_directory = true;
  directory.layers = {"/proc/self/fdinfo"};
  EXPECT_EQ(resolvers(Spec(options, directory)), 0);
}

TEST(RunSpecTest, PublishedPortsAreReadOrNamed) {
  RunOptions options;
  EXPECT_TRUE(PublishedPorts(options)->empty());
  options.publish = {"80:8080"};
  EXPECT_EQ(PublishedPorts(options).error().message(), "--publish needs --net user");
  options.net = "user";
  options.publish = {"80:8080", "127.0.0.1:53:5353/udp", "1:65535/tcp"};
  const std::vector<runtime::PublishedPort> wanted = {
      {"", 80, 8080, false}, {"127.0.0.1", 53, 5353, true}, {"", 1, 65535, false}};
  EXPECT_EQ(*PublishedPorts(options), wanted);
  for (const char* wrong :
       {"", "80", ":", "80:", ":80", "0:80", "80:0", "65536:1", "1:65536", "a:1", "80:80/sctp",
        "host:80:80", ":80:80", "::1:80:80", "1.2.3:80:80", "80:80 ", "-1:80", "80-90:80"}) {
    options.publish = {wrong};
    const auto ports = PublishedPorts(options);
    ASSERT_FALSE(ports.has_value()) << wrong;
    EXPECT_EQ(ports.error().code(), Code::kInvalidArgument);
  }
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
