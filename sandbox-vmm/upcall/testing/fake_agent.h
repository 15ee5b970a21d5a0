// upcall/testing/fake_agent.h — the guest's end of the upcall, as good or as bad as a test wants it: a ttrpc server behind sockets as vsock
// gives them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/loop_thread.h"
#include "proto/upcall.pb.h"
#include "ttrpc/server.h"
#include "upcall/opening.h"
#include "upcall/preamble.h"

namespace wyvern::upcall {

class FakeAgent {
 public:
  template <typename Req, typename Resp>
  using Handler = std::function<void(Req, ttrpc::Responder<Resp>)>;

  FakeAgent() {
    loop_ = *LoopThread::Start("fake-agent");
    On<agent::v1::UpcallHelloRequest, agent::v1::UpcallHelloResponse>(
        "Hello", [](const auto&, const auto& answer) { answer.Ok(GoodHello()); });
    CutAll();
  }

  ~FakeAgent() {
    loop_->Call([this] { server_.reset(); });
  }

  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;

  // What a session opens. `answer`: what the guest's kernel says to the connection; UNAVAILABLE is a refusal.
  OpenChannel channel() {
    return [this](UniqueFd socket, std::function<void(Result<>)> connected) -> Result<ChannelKind> {
      {
        const std::lock_guard lock(mu_);
        ++opened_;
        if (refusals_ > 0) {
          --refusals_;
          connected(Fail(Code::kUnavailable, "the guest refused the connection"));
          return ChannelKind::kVsock;
        }
        if (silent_) {
          kept_.push_back(std::move(socket));
          return ChannelKind::kVsock;
        }
      }
      loop_->Call([&] { WV_CHECK(server_->Adopt(std::move(socket)).has_value()); });
      connected({});
      return ChannelKind::kVsock;
    };
  }

  // The next `count` connections are refused.
  void Refuse(int count) {
    const std::lock_guard lock(mu_);
    refusals_ = count;
  }

  // Connections are never answered.
  void BeSilent(bool silent) {
    const std::lock_guard lock(mu_);
    silent_ = silent;
  }

  int opened() const {
    const std::lock_guard lock(mu_);
    return opened_;
  }

  // Ends all streams; later ones are served again.
  void CutAll() {
    loop_->Call([this] { MakeServer(); });
  }

  // As CutAll, from a handler.
  void CutSoon() {
    loop_->loop().Post([this] { MakeServer(); });
  }

  // What a call gets from now on; on the loop's thread. Until then it is answered UNIMPLEMENTED, Hello as it should be.
  template <typename Req, typename Resp>
  void On(const std::string& method, Handler<Req, Resp> handler) {
    const std::lock_guard lock(mu_);
    handlers_[method] = [handler = std::move(handler)](const std::string& payload,
                                                       ttrpc::RawResponder responder) {
      Req request;
      WV_CHECK(request.ParseFromString(payload));
      handler(std::move(request), ttrpc::Responder<Resp>(std::move(responder)));
    };
  }

  LoopThread& loop() { return *loop_; }

  static agent::v1::UpcallHelloResponse GoodHello() {
    agent::v1::UpcallHelloResponse hello;
    hello.set_protocol(1);
    hello.set_agent_version("0.1.0");
    hello.set_boot_id("01234567-89ab-cdef-0123-456789abcdef");
    return hello;
  }

 private:
  using RawHandler = std::function<void(const std::string&, ttrpc::RawResponder)>;

  void MakeServer() {
    server_.reset();
    server_ = *ttrpc::Server::Create(loop_->loop());
    for (const char* method : {"Hello", "PciRescan", "PciRemove", "CpuOnline", "CpuOffline",
                               "MemoryOnline", "MemoryOffline"}) {
      server_->RegisterRawUnary(
          kServiceName, method,
          [this, method](const std::string& payload, const ttrpc::CallContext&,
                         ttrpc::RawResponder responder) {
            Handle(method, payload, std::move(responder));
          });
    }
  }

  void Handle(const char* method, const std::string& payload, ttrpc::RawResponder responder) {
    RawHandler handler;
    {
      const std::lock_guard lock(mu_);
      handler = handlers_[method];
    }
    if (!handler) {
      responder.Answer(Fail(Code::kUnimplemented, "not in this test"));
      return;
    }
    handler(payload, std::move(responder));
  }

  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::Server> server_;  // loop's thread
  mutable std::mutex mu_;                  // guards what follows
  std::map<std::string, RawHandler> handlers_;
  int refusals_ = 0;
  bool silent_ = false;
  int opened_ = 0;
  std::vector<UniqueFd> kept_;
};

}  // namespace wyvern::upcall
