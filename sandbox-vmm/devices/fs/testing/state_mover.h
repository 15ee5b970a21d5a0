// fs/testing/state_mover.h — FsTest with a guest that goes from one server to the next of the same
// directory.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs::testing {

class StateMover : public FsTest {
 protected:
  // The bytes of server_'s state, which is as it was then.
  FsState SaveHere() {
    auto saved = server_->Save();
    EXPECT_TRUE(saved.has_value()) << saved.error().message();
    if (!saved) {
      return {};
    }
    const auto decoded = DecodeState(EncodeState(*saved));
    EXPECT_TRUE(decoded.has_value()) << decoded.error().message();
    EXPECT_EQ(decoded.value_or(FsState{}), *saved);
    return *std::move(saved);
  }

  // A new server takes server_'s place. The old one stays, with all that it has open, as the source
  // of a migration does.
  Result<> LoadThere(const FsState& state, OnLoss on_loss = OnLoss::kAbort,
                     FileServerOptions options = {}) {
    NewServer(std::move(options));
    return server_->Load(state, on_loss);
  }

  void NewServer(FileServerOptions options = {}) {
    options.root = UniqueFd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto next = FileServer::Create(std::move(options));
    ASSERT_TRUE(next.has_value()) << next.error().message();
    left_ = std::exchange(server_, std::move(*next));
    client_ = std::make_unique<FuseClient>(*server_);
  }

  // Both, with nothing lost; what came is what went.
  void Move(FileServerOptions options = {}) {
    const FsState state = SaveHere();
    const auto loaded = LoadThere(state, OnLoss::kAbort, std::move(options));
    ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
    EXPECT_EQ(SaveHere(), state);
  }

  std::unique_ptr<FileServer> left_;
};

}  // namespace wyvern::fs::testing
