#include "volume/host_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "storage/testing/private_mounts.h"
#include "volume/testing/kubelet_volume.h"

namespace wyvern::runtime {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class HostFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-files-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    volume_.emplace(dir_ + "/volumes/kubernetes.io~configmap/c");
  }

  void TearDown() override { fs::remove_all(dir_); }

  std::string In(const std::string& version, const std::string& name) const {
    return volume_->path() + "/" + version + "/" + name;
  }

  Code Refusal() const {
    const auto files = ReadHostFiles(volume_->path());
    return files.has_value() ? Code::kOk : files.error().code();
  }

  std::string dir_;
  std::optional<KubeletVolume> volume_;
};

TEST_F(HostFilesTest, AVersionIsReadWithModesAndDirectoriesFirst) {
  const std::string version =
      volume_->Write({{"a", "one"}, {"d/e/f", std::string("\0z", 2)}}, 0440);
  ASSERT_EQ(chmod(volume_->path().c_str(), 01777), 0);
  const auto files = ReadHostFiles(volume_->path());
  ASSERT_TRUE(files.has_value()) << files.error().message();
  EXPECT_EQ(files->version, version);
  EXPECT_EQ(files->owner.mode, 01777U);
  EXPECT_EQ(files->bytes, 5U);
  ASSERT_EQ(files->files.size(), 4U);
  EXPECT_EQ(files->files[0].path, "a");
  EXPECT_EQ(files->files[0].owner.mode, 0440U);
  EXPECT_EQ(files->files[0].content, "one");
  EXPECT_EQ(files->files[1].path, "d");
  EXPECT_TRUE(files->files[1].directory);
  EXPECT_EQ(files->files[2].path, "d/e");
  EXPECT_EQ(files->files[3].path, "d/e/f");
  EXPECT_EQ(files->files[3].content, std::string("\0z", 2));
}

TEST_F(HostFilesTest, NoKeysAreAVolumeToo) {
  volume_->Write({});
  const auto files = ReadHostFiles(volume_->path());
  ASSERT_TRUE(files.has_value());
  EXPECT_TRUE(files->files.empty());
}

TEST_F(HostFilesTest, WhatIsMissingIsNotFound) {
  EXPECT_EQ(ReadHostFiles(dir_ + "/none").error().code(), Code::kNotFound);
}

TEST_F(HostFilesTest, ADirectoryWithoutDataIsNotKubelets) {
  ASSERT_TRUE(WriteFile(volume_->path() + "/plain", "x").has_value());
  EXPECT_EQ(Refusal(), Code::kFailedPrecondition);
}

TEST_F(HostFilesTest, LinksThatLeadOutAreNotFollowed) {
  fs::create_directories(dir_ + "/secret");
  ASSERT_TRUE(WriteFile(dir_ + "/secret/key", "host's").has_value());
  for (const std::string& target : {dir_ + "/secret", std::string("../../../secret"),
                                    std::string(".."), std::string("..data"), std::string("/")}) {
    fs::remove(volume_->path() + "/..data");
    fs::create_symlink(target, volume_->path() + "/..data");
    EXPECT_EQ(Refusal(), Code::kFailedPrecondition) << target;
  }
  // The version itself, a file, and a directory of it.
  fs::remove(volume_->path() + "/..data");
  fs::create_symlink("..v", volume_->path() + "/..data");
  fs::create_directory_symlink(dir_ + "/secret", volume_->path() + "/..v");
  EXPECT_EQ(Refusal(), Code::kFailedPrecondition);
  for (const char* what : {"/secret/key", "/secret"}) {
    const std::string version = volume_->Write({{"a", "one"}});
    fs::create_symlink(dir_ + what, In(version, "link"));
    EXPECT_EQ(Refusal(), Code::kFailedPrecondition) << what;
  }
}

TEST_F(HostFilesTest, AFifoIsNeitherReadNorWaitedFor) {
  const std::string version = volume_->Write({{"a", "one"}});
  ASSERT_EQ(mkfifo(In(version, "fifo").c_str(), 0644), 0);
  EXPECT_EQ(Refusal(), Code::kFailedPrecondition);
}

TEST_F(HostFilesTest, NamesThatNoKeyHasAreRefused) {
  for (const char* name : {"..data", "..x", "\xff\xfe"}) {
    volume_->Write({{name, "one"}});
    EXPECT_EQ(Refusal(), Code::kFailedPrecondition) << name;
  }
}

TEST_F(HostFilesTest, MoreThanTheBoundsIsTooLarge) {
  volume_->Write({{"a", std::string(kMaxHostFileBytes - 1, 'x')}, {"b", "y"}});
  EXPECT_EQ(Refusal(), Code::kOk);
  volume_->Write({{"a", std::string(kMaxHostFileBytes - 1, 'x')}, {"b", "yz"}});
  EXPECT_EQ(Refusal(), Code::kResourceExhausted);
  const std::string sparse = volume_->Write({{"a", ""}});
  ASSERT_EQ(truncate(In(sparse, "a").c_str(), off_t{1} << 40), 0);
  EXPECT_EQ(Refusal(), Code::kResourceExhausted);
  std::map<std::string, std::string> many;
  for (size_t i = 0; i < kMaxHostFiles; ++i) {
    many.emplace("f" + std::to_string(i), "");
  }
  volume_->Write(many);
  EXPECT_EQ(Refusal(), Code::kOk);
  many.emplace("one-more", "");
  volume_->Write(many);
  EXPECT_EQ(Refusal(), Code::kResourceExhausted);
  std::string deep;
  for (size_t i = 0; i < kMaxHostFileDepth; ++i) {
    deep += "d/";
  }
  volume_->Write({{deep + "f", ""}});
  EXPECT_EQ(Refusal(), Code::kResourceExhausted);
}

// Kubelet swaps while we read: it is one version or the other, whole.
TEST_F(HostFilesTest, VersionsAreNeverMixed) {
  const auto write = [&](int i) {
    std::map<std::string, std::string> files;
    for (int file = 0; file < 20; ++file) {
      files.emplace("f" + std::to_string(file), std::to_string(i));
    }
    volume_->Write(files);
  };
  write(0);
  std::atomic<bool> stop{false};
  std::thread kubelet([&] {
    for (int i = 1; !stop; ++i) {
      write(i);
    }
  });
  int whole = 0;
  for (int i = 0; i < 500; ++i) {
    const auto files = ReadHostFiles(volume_->path());
    if (!files.has_value()) {
      EXPECT_EQ(files.error().code(), Code::kAborted) << files.error().message();
      continue;
    }
    ++whole;
    EXPECT_EQ(files->files.size(), 20U);
    for (const HostFile& file : files->files) {
      EXPECT_EQ(file.content, files->files[0].content);
    }
  }
  stop = true;
  kubelet.join();
  EXPECT_GT(whole, 0);
}

// Somebody who may write to the volume changes a file into a link to the host's, and back.
TEST_F(HostFilesTest, AFileThatBecomesALinkIsNeverReadThroughIt) {
  ASSERT_TRUE(WriteFile(dir_ + "/secret", "host's").has_value());
  const std::string version = volume_->Write({{"a", "mine"}});
  fs::create_symlink(dir_ + "/secret", In(version, "b"));
  fs::rename(In(version, "b"), dir_ + "/b");  // beside, so that only one name is in the version
  std::atomic<bool> stop{false};
  const std::string a = In(version, "a");
  const std::string b = dir_ + "/b";
  std::thread attacker([&] {
    while (!stop) {
      (void)renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    const auto files = ReadHostFiles(volume_->path());
    if (files.has_value()) {
      ASSERT_EQ(files->files.size(), 1U);
      ASSERT_EQ(files->files[0].content, "mine");
    }
  }
  stop = true;
  attacker.join();
}

using HostFilesMountTest = PrivateMountsTest;

TEST_F(HostFilesMountTest, WhatIsMountedBelowIsNotRead) {
  KubeletVolume volume(dir_ + "/volumes/kubernetes.io~secret/s");
  const std::string version = volume.Write({{"d/a", "one"}});
  ASSERT_EQ(mount("tmpfs", (volume.path() + "/" + version + "/d").c_str(), "tmpfs", 0, nullptr), 0);
  const auto files = ReadHostFiles(volume.path());
  ASSERT_FALSE(files.has_value());
  EXPECT_EQ(files.error().code(), Code::kFailedPrecondition);
}

}  // namespace
}  // namespace wyvern::runtime
