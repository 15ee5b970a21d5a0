// volume/testing/kubelet_volume.h — writes a ConfigMap's directory as kubelet's AtomicWriter does.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>

#include "base/fd.h"

namespace wyvern::runtime {

class KubeletVolume {
 public:
  // `path` is made, with those before it.
  explicit KubeletVolume(std::string path) : path_(std::move(path)) {
    std::filesystem::create_directories(path_);
  }

  // Paths as keys: "a" or "dir/a". Returns the version's name.
  std::string Write(const std::map<std::string, std::string>& files, mode_t mode = 0644) {
    namespace fs = std::filesystem;
    std::string version = "..2026_11_23_10_00_00." + std::to_string(++counter_);
    const std::string old = std::exchange(version_, version);
    fs::create_directory(path_ + "/" + version);
    for (const auto& [name, content] : files) {
      const fs::path file = path_ + "/" + version + "/" + name;
      fs::create_directories(file.parent_path());
      EXPECT_TRUE(WriteFile(file, content).has_value());
      EXPECT_EQ(chmod(file.c_str(), mode), 0);
    }
    fs::create_symlink(version, path_ + "/..data_tmp");
    fs::rename(path_ + "/..data_tmp", path_ + "/..data");
    for (const auto& [name, content] : files) {
      const std::string top = name.substr(0, name.find('/'));
      std::error_code there;
      fs::create_symlink("..data/" + top, path_ + "/" + top, there);
    }
    if (!old.empty()) {
      fs::remove_all(path_ + "/" + old);
    }
    return version;
  }

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  std::string version_;
  int counter_ = 0;
};

}  // namespace wyvern::runtime
