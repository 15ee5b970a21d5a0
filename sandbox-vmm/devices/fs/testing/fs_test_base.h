// fs/testing/fs_test_base.h — a temporary directory, a server over it and a client: what the
// server's tests share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "fs/testing/fuse_client.h"

namespace wyvern::fs::testing {

class FsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::umask(0);
    std::string pattern = (Parent() / "wyvern-fs-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    base_ = pattern;
    dir_ = base_ + "/share";
    ASSERT_EQ(::mkdir(dir_.c_str(), 0755), 0);
    Serve();
  }

  void TearDown() override {
    client_.reset();
    server_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(base_, ignored);
  }

  void Serve(FileServerOptions options = {}) {
    options.root = UniqueFd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto server = FileServer::Create(std::move(options));
    ASSERT_TRUE(server.has_value()) << server.error().message();
    server_ = std::move(*server);
    client_ = std::make_unique<FuseClient>(*server_);
    ASSERT_EQ(client_->Init().error, 0);
  }

  std::string Host(const std::string& name) const { return dir_ + "/" + name; }

  void Put(const std::string& name, std::string_view content, mode_t mode = 0644) const {
    {
      std::ofstream file(Host(name), std::ios::binary);
      file << content;
    }
    ASSERT_EQ(::chmod(Host(name).c_str(), mode), 0);
  }

  std::string Get(const std::string& name) const {
    std::ifstream file(Host(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  struct stat Stat(const std::string& name) const {
    struct stat out {};

    if (::lstat(Host(name).c_str(), &out) != 0) {
      out.st_nlink = 0;
    }
    return out;
  }

  // d0/f0 and so on, empty.
  void PutTree(int directories, int files) const {
    for (int d = 0; d < directories; ++d) {
      const std::string directory = Host("d" + std::to_string(d));
      ASSERT_EQ(::mkdir(directory.c_str(), 0755), 0);
      for (int f = 0; f < files; ++f) {
        const std::string name = directory + "/f" + std::to_string(f);
        const UniqueFd fd(::open(name.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
        ASSERT_TRUE(fd.valid());
      }
    }
  }

  // Where the directory is made.
  virtual std::filesystem::path Parent() const { return std::filesystem::temp_directory_path(); }

  // For big trees: a disk would take a minute to make the files.
  static std::filesystem::path MemoryIfThereIsOne() {
    return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path();
  }

  bool IsRoot() const { return ::geteuid() == 0; }

  std::string base_;
  std::string dir_;
  std::unique_ptr<FileServer> server_;
  std::unique_ptr<FuseClient> client_;
};

}  // namespace wyvern::fs::testing
