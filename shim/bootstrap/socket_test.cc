#include "bootstrap/socket.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <tuple>
#include <vector>

#include "bootstrap/sha256.h"

namespace wyvern::shim {
namespace {

TEST(Sha256Test, VectorsOfTheStandard) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(SocketTest, Scenario40_PathFitsWhateverTheIdsAre) {
  const std::string path = SocketPath(kDefaultSocketDir, "/run/containerd/containerd.sock",
                                      std::string(76, 'n'), std::string(76, 'i'));
  EXPECT_EQ(path.size(), std::string("/run/containerd/s/").size() + 64);
  // sha256("/run/containerd/containerd.sock/default/t"), as filepath.Join cleans it
  EXPECT_EQ(SocketPath("/s", "/run/containerd/containerd.sock", "default", "t"),
            "/s/" + Sha256Hex("/run/containerd/containerd.sock/default/t"));
  EXPECT_EQ(SocketPath("/s", "/run//containerd/./containerd.sock", "default", "t"),
            SocketPath("/s", "/run/containerd/containerd.sock", "default", "t"));
  EXPECT_NE(SocketPath("/s", "/a", "n1", "t"), SocketPath("/s", "/a", "n2", "t"));
}

class BindTest : public ::testing::Test {
 protected:
  BindTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "wyvern-bind-XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
};

TEST_F(BindTest, DirectoryAndSocketArePrivate) {
  const std::string path = dir_ + "/s/sock";
  const auto bound = BindOrReuse(path);
  ASSERT_TRUE(bound);
  ASSERT_TRUE(bound->listener.valid());

  struct stat info {};

  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  ASSERT_EQ(stat((dir_ + "/s").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);
  EXPECT_TRUE(IsConnectable(path));
  EXPECT_EQ(ListenerPid(path), getpid());
}

TEST_F(BindTest, LivingSocketIsReusedStaleOneReplaced) {
  const std::string path = dir_ + "/sock";
  {
    auto first = BindOrReuse(path);
    ASSERT_TRUE(first && first->listener.valid());
    const auto second = BindOrReuse(path);
    ASSERT_TRUE(second);
    EXPECT_FALSE(second->listener.valid());
  }
  EXPECT_FALSE(IsConnectable(path));
  EXPECT_EQ(ListenerPid(path), 0);
  const auto third = BindOrReuse(path);
  ASSERT_TRUE(third);
  EXPECT_TRUE(third->listener.valid());
}

TEST_F(BindTest, OfManyAtOnceExactlyOneListens) {
  const std::string path = dir_ + "/sock";
  std::ignore = BindOrReuse(path);  // leaves a stale file
  std::array<Result<BoundSocket>, 8> results;
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (auto& result : results) {
    threads.emplace_back([&result, &path] { result = BindOrReuse(path); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  int listeners = 0;
  for (const auto& result : results) {
    ASSERT_TRUE(result);
    listeners += result->listener.valid() ? 1 : 0;
  }
  EXPECT_EQ(listeners, 1);
}

}  // namespace
}  // namespace wyvern::shim
