#include "api/vmm_server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "api/donation.h"
#include "api/vmm_service.h"
#include "base/event_fd.h"

namespace wyvern::api {

namespace {

// Serves donations until `stop` is signalled or the client hangs up.
Result<> ServeDonations(FdRef socket, const EventFd& stop, DonationStore& store) {
  for (;;) {
    std::array<pollfd, 2> polled = {pollfd{.fd = socket.get(), .events = POLLIN, .revents = 0},
                                    pollfd{.fd = stop.fd().get(), .events = POLLIN, .revents = 0}};
    if (poll(polled.data(), polled.size(), -1) < 0) {
      if (errno == EINTR) {
        continue;
      }
      return SysError("poll");
    }
    if (polled[1].revents != 0) {
      return {};
    }
    if (polled[0].revents != 0) {
      WV_TRY(const bool open, ServeOneDonation(socket, store));
      if (!open) {
        return {};
      }
    }
  }
}

}  // namespace

Result<> ServeVmm(VmmServerOptions options, VirtualMachine& machine) {
  WV_TRY(const EventFd stop, EventFd::Create());
  WV_TRY_VOID(SetNonBlocking(options.grpc_socket, true));
  DonationStore store;
  VmmService service(machine, store, options.version, [&stop] { stop.Signal(); });

  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  // One client with few calls: one completion queue and as few idle threads as gRPC allows.
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server) {
    return Fail(Code::kInternal, "gRPC did not start");
  }
  grpc::AddInsecureChannelFromFd(server.get(), options.grpc_socket.Release());

  Result<> served = ServeDonations(options.donation_socket, stop, store);
  service.EndStreams();
  machine.EndWaits();
  // The answer to Shutdown is still on its way: give it a moment, then cut what is left.
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  return served;
}

}  // namespace wyvern::api
