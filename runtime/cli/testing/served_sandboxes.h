// cli/testing/served_sandboxes.h — fake sandboxes that serve their control sockets in one state directory.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/testing/must.h"
#include "control/control_server.h"
#include "testing/fake_sandbox.h"
#include "testing/temp_dir.h"

namespace wyvern::cli {

class ServedSandboxes {
 public:
  ServedSandboxes() = default;

  ~ServedSandboxes() {
    while (!all_.empty()) {
      End(all_.begin()->first.first, all_.begin()->first.second);
    }
  }

  ServedSandboxes(const ServedSandboxes&) = delete;
  ServedSandboxes& operator=(const ServedSandboxes&) = delete;

  std::string state_dir() const { return dir_.path(); }

  std::string DirectoryOf(const std::string& ns, const std::string& id) const {
    return dir_ / ns + "-" + id;
  }

  shim::FakeSandbox& Serve(const std::string& ns, const std::string& id) {
    std::filesystem::create_directory(DirectoryOf(ns, id));
    Served& served = all_[{ns, id}];
    served.sandbox = std::make_unique<shim::FakeSandbox>(runtime::SandboxOptions{});
    shim::ControlOptions options;
    options.ns = ns;
    options.sandbox_id = id;
    options.version = "1.2.3";
    options.containers = [] { return std::vector<shim::ControlContainer>(); };
    served.server = Must(shim::ControlServer::Start(DirectoryOf(ns, id) + "/control.sock",
                                                    *served.sandbox, std::move(options)));
    return *served.sandbox;
  }

  // Its socket goes; its directory stays.
  void End(const std::string& ns, const std::string& id) {
    const auto it = all_.find({ns, id});
    it->second.server->Close();
    (void)it->second.sandbox->Shutdown();
    all_.erase(it);
  }

 private:
  struct Served {
    std::unique_ptr<shim::FakeSandbox> sandbox;
    std::unique_ptr<shim::ControlServer> server;
  };

  shim::TempDir dir_;
  std::map<std::pair<std::string, std::string>, Served> all_;
};

}  // namespace wyvern::cli
