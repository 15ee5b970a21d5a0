// sandbox/testing/sandbox_fixture.h — bundles with a busybox root, a sandbox on a native machine, and a look at what is left.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "sandbox/sandbox_impl.h"
#include "sandbox/testing/native_machine.h"

namespace wyvern::runtime {

template <typename T>
Code CodeOf(const Result<T>& result) {
  return result.has_value() ? Code::kOk : result.error().code();
}

struct BundleOptions {
  std::vector<std::string> args = {"true"};
  std::string mounts;        // more JSON objects for mounts[], each with a comma in front
  std::string hooks;         // JSON object
  std::string process;       // more members of process, each with a comma in front
  std::string annotations;   // JSON object
  std::string resources;     // of linux, JSON object
  std::string cgroups_path;  // empty: one of the test's own
  std::string namespaces =
      R"({"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"})";  // of linux
  std::string network = R"(,{"type":"network"})";  // of linux.namespaces, with a comma in front
  bool read_only_root = false;
};

class SandboxFixture : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Writes <dir_>/<id>/config.json; the root is shared by all.
  std::string MakeBundle(const std::string& id, const BundleOptions& options);
  Result<std::unique_ptr<Sandbox>> StartSandboxOf(const std::string& bundle,
                                                  const std::string& id = "box");
  SandboxOptions OptionsOf(const std::string& bundle, const std::string& id) const;
  // Starts sandbox_ on a bundle that runs `args`; the container is not created.
  void Boot(const BundleOptions& options);

  struct Ran {
    uint32_t status = 0;
    std::string out;
  };

  // Create, start, drain, wait, delete.
  Ran Run(const std::string& id, const BundleOptions& options);
  ContainerOptions ContainerOf(const std::string& id, const std::string& bundle, bool in,
                               bool out) const;

  // What a sandbox must not leave: mounts below dir_, state directories, cgroups, exports. Empty: nothing.
  std::string LeftBehind() const;

  static std::string Drain(const UniqueFd& fd);

  std::string dir_;  // tmpfs: root/, bundles
  std::string state_dir_;
  std::shared_ptr<Config> config_;
  Patience patience_;
  const std::shared_ptr<ExportWatch> exports_ = std::make_shared<ExportWatch>();  // of sandbox_
  std::unique_ptr<Sandbox> sandbox_;
};

}  // namespace wyvern::runtime
