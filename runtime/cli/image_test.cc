#include "cli/image.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/subprocess.h"
#include "cli/digest.h"
#include "cli/image_store.h"
#include "cli/layer.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class ImageTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "wyvern-image-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directories(root_ + "/layout/blobs/sha256");
    std::ofstream(root_ + "/layout/oci-layout") << R"({"imageLayoutVersion":"1.0.0"})";
  }

  void TearDown() override { fs::remove_all(root_); }

  // Runs tar; the result's path.
  std::string Tar(const std::string& name, const std::string& directory,
                  const std::vector<std::string>& extra = {}) {
    std::string path = root_ + "/" + name;
    SpawnOptions options{.argv = {"/bin/tar", "-cf", path, "-C", directory, "--format=pax"},
                         .env = {},
                         .fds = {},
                         .cwd = ""};
    options.argv.insert(options.argv.end(), extra.begin(), extra.end());
    if (extra.empty()) {
      options.argv.emplace_back(".");
    }
    EXPECT_EQ(RunCommand(options, 10000)->status.AsShell(), 0);
    return path;
  }

  Json AddBlob(const std::string& data) {
    const std::string digest = Sha256(data);
    std::ofstream(root_ + "/layout/blobs/sha256/" + digest.substr(7)) << data;
    return {{"digest", digest}, {"size", data.size()}};
  }

  // A layout with one layer made of `directory`.
  void MakeLayout(const std::string& directory, const Json& config) {
    const std::string layer = *ReadFile(Tar("layer.tar", directory), 64U << 20U);
    const Json manifest{{"schemaVersion", 2},
                        {"config", AddBlob(Json{{"config", config}}.dump())},
                        {"layers", Json::array({AddBlob(layer)})}};
    std::ofstream(root_ + "/layout/index.json")
        << Json{{"manifests", Json::array({AddBlob(manifest.dump())})}}.dump();
  }

  Result<Image> Open() { return OpenImage(root_ + "/layout", root_ + "/store"); }

  std::string root_;
};

TEST_F(ImageTest, LayoutIsUnpackedOnceAndItsConfigRead) {
  fs::create_directories(root_ + "/fs/bin");
  std::ofstream(root_ + "/fs/bin/tool") << "x";
  MakeLayout(root_ + "/fs",
             {{"Cmd", {"sh"}}, {"Env", {"A=1"}}, {"WorkingDir", "/bin"}, {"User", "7"}});
  const Image image = *Open();
  ASSERT_EQ(image.layers.size(), 1U);
  EXPECT_EQ(*ReadFile(image.layers[0] + "/bin/tool"), "x");
  EXPECT_EQ(image.config.command, std::vector<std::string>{"sh"});
  EXPECT_EQ(image.config.cwd, "/bin");
  const auto first = fs::last_write_time(image.layers[0]);
  EXPECT_EQ(Open()->layers, image.layers);
  EXPECT_EQ(fs::last_write_time(image.layers[0]), first);
}

TEST_F(ImageTest, LayersStayAsLongAsTheImage) {
  fs::create_directories(root_ + "/fs");
  std::ofstream(root_ + "/fs/file") << "x";
  MakeLayout(root_ + "/fs", {{"Cmd", {"sh"}}});
  std::string layer;
  {
    const Image image = *Open();
    layer = image.layers[0];
    EXPECT_EQ(PruneStore(root_ + "/store")->in_use, 1U);
    EXPECT_TRUE(fs::exists(layer + "/file"));
  }
  EXPECT_EQ(PruneStore(root_ + "/store")->removed, 1U);
  EXPECT_FALSE(fs::exists(layer));
  EXPECT_EQ(*ReadFile(Open()->layers[0] + "/file"), "x");
}

TEST_F(ImageTest, ArchiveOfALayoutIsTheSame) {
  fs::create_directories(root_ + "/fs");
  std::ofstream(root_ + "/fs/file") << "x";
  MakeLayout(root_ + "/fs", {{"Cmd", {"sh"}}});
  const std::string archive = Tar("image.tar", root_ + "/layout");
  const auto image = OpenImage(archive, root_ + "/store");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(*ReadFile(image->layers[0] + "/file"), "x");
}

TEST_F(ImageTest, DamagedBlobIsFoundByItsDigest) {
  fs::create_directories(root_ + "/fs");
  MakeLayout(root_ + "/fs", {{"Cmd", {"sh"}}});
  for (const auto& entry : fs::directory_iterator(root_ + "/layout/blobs/sha256")) {
    std::ofstream(entry.path(), std::ios::app) << "!";
  }
  const auto image = Open();
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), Code::kDataLoss);
  EXPECT_NE(image.error().message().find("damaged"), std::string::npos) << image.error().message();
}

TEST_F(ImageTest, BadSourcesSayWhatTheyAre) {
  const auto nothing = OpenImage("busybox-of-a-registry", root_ + "/store");
  EXPECT_EQ(nothing.error().code(), Code::kNotFound);
  EXPECT_NE(nothing.error().message().find("skopeo copy docker://"), std::string::npos);
  std::ofstream(root_ + "/text") << "this is no archive";
  EXPECT_EQ(OpenImage(root_ + "/text", root_ + "/store").error().code(), Code::kDataLoss);
  std::ofstream(root_ + "/layout/index.json") << "{]";
  EXPECT_EQ(Open().error().code(), Code::kDataLoss);
  std::ofstream(root_ + "/layout/index.json")
      << R"({"manifests":[{"digest":"sha256:../../../../etc/passwd"}]})";
  EXPECT_EQ(Open().error().code(), Code::kDataLoss);
}

TEST_F(ImageTest, WhiteoutsBecomeWhatOverlayfsKnows) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root: it makes device nodes and trusted xattrs";
  }
  fs::create_directories(root_ + "/fs/dir");
  std::ofstream(root_ + "/fs/.wh.gone") << "";
  std::ofstream(root_ + "/fs/dir/.wh..wh..opq") << "";
  fs::create_directories(root_ + "/out");
  const UniqueFd archive = *wyvern::Open(Tar("layer.tar", root_ + "/fs"), O_RDONLY);
  const auto done = UnpackLayer(archive, root_ + "/out");
  ASSERT_TRUE(done) << done.error().message();

  struct stat info {};

  ASSERT_EQ(stat((root_ + "/out/gone").c_str(), &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
  EXPECT_EQ(info.st_rdev, makedev(0, 0));
  char value = 0;
  EXPECT_EQ(getxattr((root_ + "/out/dir").c_str(), "trusted.overlay.opaque", &value, 1), 1);
  EXPECT_FALSE(fs::exists(root_ + "/out/dir/.wh..wh..opq"));
}

TEST_F(ImageTest, LayerCannotWriteOutsideOfItsDirectory) {
  fs::create_directories(root_ + "/fs");
  fs::create_directories(root_ + "/out");
  std::ofstream(root_ + "/fs/evil") << "x";
  // An absolute name and one with "..".
  for (const std::string& transform :
       {"s,evil,/" + root_ + "/escaped,", std::string("s,evil,../escaped,")}) {
    const UniqueFd archive = *wyvern::Open(
        Tar("evil.tar", root_ + "/fs", {"-P", "--transform=" + transform, "evil"}), O_RDONLY);
    EXPECT_FALSE(UnpackLayer(archive, root_ + "/out")) << transform;
  }
  // A symlink first, then a file through it.
  fs::create_symlink(root_, root_ + "/fs/link");
  const std::string first = Tar("evil.tar", root_ + "/fs", {"link"});
  SpawnOptions append{.argv = {"/bin/tar", "-rf", first, "-C", root_ + "/fs",
                               "--transform=s,evil,link/escaped,", "evil"},
                      .env = {},
                      .fds = {},
                      .cwd = ""};
  ASSERT_EQ(RunCommand(append, 10000)->status.AsShell(), 0);
  const UniqueFd archive = *wyvern::Open(first, O_RDONLY);
  // Refused, or the link is replaced by a directory: either way nothing leaves.
  (void)UnpackLayer(archive, root_ + "/out");
  EXPECT_FALSE(fs::exists(root_ + "/escaped"));
  // A whiteout through a symlink.
  std::ofstream(root_ + "/fs/.wh.x") << "";
  const std::string second = Tar("evil2.tar", root_ + "/fs", {"link"});
  append.argv = {"/bin/tar", "-rf", second, "-C", root_ + "/fs", "--transform=s,.wh.x,link/.wh.x,",
                 ".wh.x"};
  ASSERT_EQ(RunCommand(append, 10000)->status.AsShell(), 0);
  fs::remove_all(root_ + "/out");
  fs::create_directories(root_ + "/out");
  const UniqueFd whiteout = *wyvern::Open(second, O_RDONLY);
  EXPECT_FALSE(UnpackLayer(whiteout, root_ + "/out"));
  EXPECT_FALSE(fs::exists(root_ + "/escaped"));
  EXPECT_FALSE(fs::exists(root_ + "/x"));
}

TEST_F(ImageTest, UsersComeFromTheImage) {
  fs::create_directories(root_ + "/fs/etc");
  std::ofstream(root_ + "/fs/etc/passwd") << "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n";
  std::ofstream(root_ + "/fs/etc/group") << "adm:x:4:\nlog:x:5:web\n";
  const Image image = *OpenImage(root_ + "/fs", root_ + "/store");
  EXPECT_TRUE(image.is_directory);
  EXPECT_EQ(ResolveUser(image, "web")->groups, (std::vector<uint32_t>{44, 5}));
  EXPECT_EQ(ResolveUser(image, "web:adm")->gid, 4U);
  const auto nobody = ResolveUser(image, "nobody-here");
  EXPECT_EQ(nobody.error().code(), Code::kNotFound);
  EXPECT_NE(nobody.error().message().find("user: /etc/passwd has no user"), std::string::npos);
}

TEST_F(ImageTest, UsersComeFromTheUppermostLayerThatHasThem) {
  for (const char* layer : {"/lower/etc", "/upper/etc"}) {
    fs::create_directories(root_ + layer);
  }
  std::ofstream(root_ + "/lower/etc/passwd") << "web:x:1:1::/:/bin/sh\n";
  std::ofstream(root_ + "/lower/etc/group") << "log:x:5:web\n";
  std::ofstream(root_ + "/upper/etc/passwd") << "web:x:2:2::/:/bin/sh\n";
  Image image;
  image.layers = {root_ + "/lower", root_ + "/upper"};
  EXPECT_EQ(ResolveUser(image, "web")->uid, 2U);
  EXPECT_EQ(ResolveUser(image, "web")->groups, (std::vector<uint32_t>{2, 5}));
}

}  // namespace
}  // namespace wyvern::cli
