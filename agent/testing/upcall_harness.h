// agent/testing/upcall_harness.h — the upcall service of an agent under a fake kernel, and the VMM's client of it.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>

#include "agent/testing/fake_kernel.h"
#include "agent/upcall_service.h"
#include "base/loop_thread.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "ttrpc/client.h"
#include "upcall/preamble.h"

namespace wyvern::agent {

using namespace std::chrono_literals;

template <typename T>
Code CodeOf(const Result<T>& result) {
  return result ? Code::kOk : result.error().code();
}

template <typename T>
std::string TextOf(const Result<T>& result) {
  return result ? "" : result.error().message();
}

// What holds a fake kernel up until the test lets it go on, or ends.
class Gate {
 public:
  ~Gate() { Open(); }

  void Open() {
    if (!std::exchange(open_, true)) {
      promise_.set_value();
    }
  }

  // For the hook, which may outlive us.
  std::function<void()> waiter() const {
    return [future = future_] { future.wait(); };
  }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future().share();
  bool open_ = false;
};

class UpcallHarness {
 public:
  // With a Hello said, unless `greet` is false.
  explicit UpcallHarness(bool greet = true) : loop_(Must(LoopThread::Start("test-agent"))) {
    loop_->Call([this] {
      server_ = Must(ttrpc::Server::Create(loop_->loop(), {.name = "upcall"}));
      service_ = std::make_unique<UpcallService>(loop_->loop(), kernel);
      service_->Register(*server_);
    });
    client_ = Connect();
    if (greet) {
      EXPECT_EQ(CodeOf(Hello(*client_)), Code::kOk);
    }
  }

  ~UpcallHarness() {
    client_.reset();
    loop_->Call([this] {
      server_.reset();
      service_.reset();
    });
  }

  UpcallHarness(const UpcallHarness&) = delete;
  UpcallHarness& operator=(const UpcallHarness&) = delete;

  std::unique_ptr<ttrpc::Client> Connect() {
    auto pair = Must(MakeSocketPair(SOCK_STREAM));
    loop_->Call([&] { EXPECT_TRUE(server_->Adopt(std::move(pair.first))); });
    return Must(ttrpc::Client::Create(std::move(pair.second)));
  }

  static Result<v1::UpcallHelloResponse> Hello(ttrpc::Client& client, uint32_t protocol = 1) {
    v1::UpcallHelloRequest request;
    request.set_protocol(protocol);
    return client.Call<v1::UpcallHelloRequest, v1::UpcallHelloResponse>(
        upcall::kServiceName, "Hello", request, {.timeout = 10s});
  }

  template <typename Resp, typename Req>
  Result<Resp> Call(const std::string& method, const Req& request) {
    return client_->Call<Req, Resp>(upcall::kServiceName, method, request, {.timeout = 30s});
  }

  // The call is on its way when this returns, and those after it come after it.
  template <typename Resp, typename Req>
  std::future<Result<Resp>> Begin(const std::string& method, const Req& request) {
    auto promise = std::make_shared<std::promise<Result<Resp>>>();
    client_->CallAsync<Req, Resp>(
        upcall::kServiceName, method, request, {.timeout = 30s},
        [promise](Result<Resp> result) { promise->set_value(std::move(result)); });
    return promise->get_future();
  }

  void Wake() {
    loop_->Call([this] { service_->Wake(); });
  }

  FakeKernel kernel;

 private:
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<UpcallService> service_;
  std::unique_ptr<ttrpc::Server> server_;
  std::unique_ptr<ttrpc::Client> client_;
};

}  // namespace wyvern::agent
