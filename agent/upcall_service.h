// agent/upcall_service.h — wyvern.agent.v1.Upcall: what the VMM asks when the machine changes.
// Shape:   three lanes, for PCI, CPUs and memory; every call but Hello is a job on one of them.
// Threads: the loop's thread.
// Trust:   the caller is the VMM: vsock port 101 of CID 2, or the console port that only we have open. It is bounded all the same.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "agent/kernel_files.h"
#include "agent/lane.h"
#include "agent/pci_hotplug.h"
#include "base/event_loop.h"
#include "proto/upcall.pb.h"
#include "ttrpc/server.h"

namespace wyvern::agent {

class UpcallService {
 public:
  // Both outlive it.
  UpcallService(EventLoop& loop, const KernelFiles& files);
  ~UpcallService() = default;
  UpcallService(const UpcallService&) = delete;
  UpcallService& operator=(const UpcallService&) = delete;

  void Register(ttrpc::Server& server);
  // The kernel told of a change: what waits for one looks now.
  void Wake();

 private:
  template <typename T>
  using Responder = ttrpc::Responder<T>;
  using Connection = std::weak_ptr<const ttrpc::CallSink>;

  template <typename Req, typename Resp>
  using MakeJob = std::function<Result<std::shared_ptr<Job>>(const Req&, Lane::TimePoint deadline,
                                                             Responder<Resp>)>;

  template <typename Req, typename Resp>
  void Add(ttrpc::Server& server, const char* method, Lane& lane, MakeJob<Req, Resp> make);
  Result<v1::UpcallHelloResponse> Hello(const v1::UpcallHelloRequest& request,
                                        const Connection& connection);

  const KernelFiles& files_;
  std::set<Connection, std::owner_less<Connection>> greeted_;
  PciHotplug pci_;
  // Last: their threads end before what their jobs refer to.
  Lane pci_lane_;
  Lane cpu_lane_;
  Lane memory_lane_;
};

}  // namespace wyvern::agent
