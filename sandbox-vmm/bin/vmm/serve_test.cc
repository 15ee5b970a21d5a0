// The API server in its real confinement, with a machine that only records: what gRPC itself needs passes the filter.
#include "vmm/serve.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "api/donation.h"
#include "base/fd.h"
#include "base/unix_socket.h"
#include "proto/vmm.grpc.pb.h"

namespace wyvern::vmm {
namespace {

class IdleMachine : public api::VirtualMachine {
 public:
  Result<> Create(api::MachineSpec /*spec*/) override { return {}; }

  Result<api::AttachedDevice> Attach(const std::string& /*id*/, api::DeviceSpec /*spec*/,
                                     std::chrono::milliseconds /*patience*/) override {
    return api::AttachedDevice{};
  }

  Result<> Detach(const api::DetachOptions& /*options*/) override { return {}; }

  Result<api::ResizedMemory> ResizeMemory(uint64_t /*bytes*/,
                                          std::chrono::milliseconds /*patience*/) override {
    return api::ResizedMemory{};
  }

  Result<api::ResizedVcpus> ResizeVcpus(uint32_t /*vcpus*/,
                                        std::chrono::milliseconds /*patience*/) override {
    return api::ResizedVcpus{};
  }

  Result<api::MachineSize> Size() override { return api::MachineSize{}; }

  void EndWaits() override {}

  Result<> Boot() override { return {}; }

  Result<> ConnectVsock(uint32_t /*port*/, UniqueFd /*socket*/) override { return {}; }

  Result<> ResizeDisk(const std::string& /*id*/) override { return {}; }

  Result<> Pause() override {
    // What an attacker in the control plane would try first.
    execl("/bin/sh", "sh", nullptr);
    return {};
  }

  Result<> Resume() override { return {}; }

  api::MachineMetrics Metrics() override {
    return {.counters = {{"root_entries", access("/etc", F_OK) == 0 ? 1U : 0U}},
            .devices = {},
            .vcpus = {}};
  }

  void SetEventListener(std::function<void(api::MachineEvent)> /*listener*/) override {}
};

// A jailed server and our ends of its sockets.
struct Jailed {
  pid_t child = -1;
  UniqueFd grpc_socket;
  UniqueFd donation_socket;
};

Jailed StartJailed() {
  SocketPair grpc_pair = *MakeSocketPair(SOCK_STREAM);
  SocketPair donation_pair = *MakeSocketPair(SOCK_SEQPACKET);
  Jailed jailed;
  jailed.child = fork();
  if (jailed.child == 0) {
    grpc_pair.first.Reset();
    donation_pair.first.Reset();
    ServeOptions options{.grpc_socket = std::move(grpc_pair.second),
                         .donation_socket = std::move(donation_pair.second),
                         .uid = 65533,
                         .gid = 65533,
                         .make_machine = [] { return std::make_unique<IdleMachine>(); }};
    const auto served = ServeJailed(std::move(options));
    if (!served) {
      dprintf(STDERR_FILENO, "%s\n", served.error().message().c_str());
    }
    _exit(served ? 0 : 1);
  }
  jailed.grpc_socket = std::move(grpc_pair.first);
  jailed.donation_socket = std::move(donation_pair.first);
  return jailed;
}

class ServeTest : public testing::Test {
 protected:
  // Every child is forked before this process starts gRPC's threads: fork and threads do not mix. The last one started has no
  // copies of the others' sockets, so they are used in that order.
  static void SetUpTestSuite() {
    for (int i = 0; geteuid() == 0 && i < 3; ++i) {
      Waiting().push_back(StartJailed());
    }
  }

  static std::vector<Jailed>& Waiting() {
    static std::vector<Jailed> waiting;
    return waiting;
  }

  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "needs root: it makes namespaces";
    }
    jailed_ = std::move(Waiting().back());
    Waiting().pop_back();
    ASSERT_TRUE(SetNonBlocking(jailed_.grpc_socket, true));
    donate_ = std::make_unique<api::DonationClient>(std::move(jailed_.donation_socket));
  }

  std::unique_ptr<wyvern::vmm::v1::Vmm::Stub> Connect() {
    return wyvern::vmm::v1::Vmm::NewStub(
        grpc::CreateInsecureChannelFromFd("vmm", jailed_.grpc_socket.Release()));
  }

  int WaitForChild() const {
    int status = 0;
    waitpid(jailed_.child, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

  Jailed jailed_;
  std::unique_ptr<api::DonationClient> donate_;
};

TEST_F(ServeTest, GrpcServesUnderTheFilterWithoutUidRootOrFiles) {
  const auto stub = Connect();
  grpc::ClientContext context;
  wyvern::vmm::v1::MetricsResponse response;
  const grpc::Status status = stub->Metrics(&context, {}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const auto process = ReadFile(fmt::format("/proc/{}/status", jailed_.child), 65536);
  ASSERT_TRUE(process);
  EXPECT_NE(process->find("\nUid:\t65533\t65533\t65533\t65533\n"), std::string::npos) << *process;
  EXPECT_EQ(response.counters().at("root_entries"), 0U);
  EXPECT_TRUE(donate_->Donate(api::DonationKind::kImage, "x", *Open("/dev/null", O_RDONLY)));
  grpc::ClientContext shutdown_context;
  wyvern::vmm::v1::Empty empty;
  EXPECT_TRUE(stub->Shutdown(&shutdown_context, {}, &empty).ok());
  EXPECT_EQ(WaitForChild(), 0);
}

TEST_F(ServeTest, ProgramCannotBeStartedFromTheControlPlane) {
  const auto stub = Connect();
  grpc::ClientContext context;
  wyvern::vmm::v1::Empty empty;
  EXPECT_FALSE(stub->Pause(&context, {}, &empty).ok());
  EXPECT_EQ(WaitForChild(), 128 + SIGSYS);
}

TEST_F(ServeTest, ProcessEndsWhenTheClientHangsUp) {
  donate_.reset();
  jailed_.grpc_socket.Reset();
  EXPECT_EQ(WaitForChild(), 0);
}

}  // namespace
}  // namespace wyvern::vmm
