// fs/fuzz_host.h — what the host of fuse_request_fuzz does between the requests of a guest: servers
// with other options, exports that come and go, files that it changes, a guest that moves.
// Input:   a fuse_in_header's opcode says which step, its nodeid and unique what exactly.
// Promise: an export is let go of at once when no request is under way; a state that is saved is
//          loaded, and one without loss means the same guest.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "fs/fuzz_directory.h"
#include "fs/testing/fake_dax_window.h"

namespace wyvern::fs {

inline constexpr uint32_t kFirstHostStep = 0x10000;

class FuzzHost {
 public:
  enum class Session : uint8_t { kGoesOn, kEnded };

  FileServer& server() { return *servers_[now_]; }

  Session Step(const fuse_in_header& step) {
    switch (step.opcode - kFirstHostStep) {
      case 0:
        EndSession();
        now_ = step.nodeid % servers_.size();
        return Session::kEnded;
      case 1:
        (void)server().Attach(Name(step.nodeid),
                              {.cache = std::chrono::milliseconds(step.unique & 2U),
                               .read_only = (step.unique & 1U) != 0});
        break;
      case 2:
        Detach(Name(step.nodeid));
        break;
      case 3:
        Change(step);
        break;
      case 4:
        Move();
        break;
      case 5:
        window_.refuse = (step.unique & 1U) != 0;
        break;
      default:
        break;
    }
    return Session::kGoesOn;
  }

  // Of an input: everything is as it was at first.
  void End() {
    EndSession();
    now_ = 0;
    window_.refuse = false;
    RestoreFuzzTree(FuzzTrees().share);
    RestoreFuzzTree(FuzzTrees().other);
  }

 private:
  static std::string Name(uint64_t number) {
    constexpr std::array kNames = {"one", "two", "none", "one/d", "..", ""};
    return kNames[number % kNames.size()];
  }

  void EndSession() {
    server().Clear();
    server().RetryWaits();  // their nodes are gone: they end
    for (uint64_t i = 0; i < 3; ++i) {
      Detach(Name(i));
    }
    const ServerStats stats = server().stats();
    WV_CHECK(stats.lock_waits == 0 && stats.lock_owners == 0 && stats.dax_ranges == 0);
    WV_CHECK(stats.inodes == 1 && stats.handles == 0);
  }

  void Detach(const std::string& name) {
    const auto gone = server().Detach(name, std::chrono::seconds(1));
    WV_CHECK(gone.has_value() || gone.error().code() == Code::kNotFound);
  }

  // Names that the guest knows become others, or nothing.
  static void Change(const fuse_in_header& step) {
    constexpr std::array kNames = {"/a", "/d", "/d/b", "/l", "/n", "/d/n", "/n/n", "/d/b/n"};
    const std::string from = FuzzDirectory() + kNames[step.nodeid % kNames.size()];
    const std::string to = FuzzDirectory() + kNames[step.nodeid / kNames.size() % kNames.size()];
    switch (step.unique % 6) {
      case 0:
        ::rename(from.c_str(), to.c_str());
        break;
      case 1:
        ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE);
        break;
      case 2:
        ::unlink(from.c_str());
        break;
      case 3:
        ::link(from.c_str(), to.c_str());
        break;
      case 4:
        ::mkdir(from.c_str(), 0755);
        break;
      default:
        (void)Open(from, O_CREAT | O_WRONLY, 0644);
        break;
    }
  }

  // A directory comes before what is known to lie in it, which may be one more or less now.
  static FsState Sorted(FsState state) {
    std::ranges::sort(state.nodes, {}, &FsState::Node::node);
    return state;
  }

  // To a server with the same options: this one, which forgets what it had.
  void Move() {
    const auto saved = server().Save();
    if (!saved) {
      WV_CHECK(saved.error().code() == Code::kFailedPrecondition);
      return;
    }
    const auto decoded = DecodeState(EncodeState(*saved));
    WV_CHECK(decoded.has_value() && *decoded == *saved);
    if (server().Load(*saved, OnLoss::kAbort)) {
      const auto again = server().Save();
      WV_CHECK(again.has_value() && Sorted(*again) == Sorted(*saved));
      return;
    }
    WV_CHECK(server().stats().inodes == 1 && server().stats().handles == 0);
    WV_CHECK(server().Load(*saved, OnLoss::kGuestError).has_value());
  }

  static std::unique_ptr<FileServer> Make(FileServerOptions options) {
    return *FileServer::Create(std::move(options));
  }

  static std::unique_ptr<FileServer> MakeBare() {
    FileServerOptions options = FuzzOptions(nullptr);
    options.features = {};
    options.policy.cache = std::chrono::milliseconds(0);
    options.inodes = {.inodes = 8, .resident = 2, .nameless = 4};
    options.max_handles = 6;
    return Make(std::move(options));
  }

  std::unique_ptr<FileServer> MakeReadOnly() {
    FileServerOptions options = FuzzOptions(&window_);
    options.policy.read_only = true;
    return Make(std::move(options));
  }

  std::unique_ptr<FileServer> MakeOfExports() {
    FileServerOptions options = FuzzOptions(&window_);
    options.root = *wyvern::Open(FuzzTrees().exports, O_RDONLY | O_DIRECTORY);
    options.exports = true;
    return Make(std::move(options));
  }

  testing::FakeDaxWindow window_{4 * kDaxRangeBytes};
  const std::array<std::unique_ptr<FileServer>, 4> servers_ = {FuzzServer(&window_), MakeBare(),
                                                               MakeReadOnly(), MakeOfExports()};
  size_t now_ = 0;
};

}  // namespace wyvern::fs
