#include "cli/layer.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include "base/subprocess.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::cli {
namespace {

class LayerTest : public runtime::PrivateMountsTest {
 protected:
  // A tar of one file, `size` bytes.
  UniqueFd LayerOf(size_t size) {
    const std::string tree = MakeDir("tree");
    MakeFile("tree/file", std::string(size, 'x'));
    const std::string path = dir_ + "/layer.tar";
    const SpawnOptions options{
        .argv = {"/bin/tar", "-cf", path, "-C", tree, "."}, .env = {}, .fds = {}, .cwd = ""};
    EXPECT_EQ(RunCommand(options, 10000)->status.AsShell(), 0);
    return std::move(*Open(path, O_RDONLY));
  }
};

TEST_F(LayerTest, FullDiskIsAnErrorNotAFileOfZeros) {
  const UniqueFd layer = LayerOf(1U << 20U);
  const std::string small = MakeDir("small");
  ASSERT_EQ(mount("tmpfs", small.c_str(), "tmpfs", 0, "size=256k"), 0);
  const auto unpacked = UnpackLayer(layer, small);
  ASSERT_FALSE(unpacked.has_value());
  EXPECT_THAT(unpacked.error().message(),
              testing::AllOf(testing::HasSubstr("file"), testing::HasSubstr("No space left")));
}

TEST_F(LayerTest, DiskThatIsLargeEnoughTakesAll) {
  const UniqueFd layer = LayerOf(1U << 20U);
  const std::string large = MakeDir("large");
  const auto unpacked = UnpackLayer(layer, large);
  ASSERT_TRUE(unpacked.has_value()) << unpacked.error().message();
  EXPECT_EQ(*ReadFile(large + "/file"), std::string(1U << 20U, 'x'));
}

}  // namespace
}  // namespace wyvern::cli
