// The upcall of a real agent: on its own socket, and what stands in for /sys is below the test's directory.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>

#include "agent/testing/agent_process.h"
#include "base/unix_socket.h"
#include "proto/upcall.pb.h"
#include "upcall/preamble.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

class UpcallTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent = std::make_unique<AgentProcess>();
    auto socket = ConnectUnix(agent->dir() + "/upcall.sock");
    ASSERT_TRUE(socket.has_value()) << socket.error().message();
    auto made = ttrpc::Client::Create(*std::move(socket));
    ASSERT_TRUE(made.has_value());
    client = *std::move(made);
  }

  void Put(const std::string& path, const std::string& text) const {
    const fs::path file = agent->dir() + "/machine" + path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  static Result<v1::UpcallHelloResponse> Hello(ttrpc::Client& to) {
    v1::UpcallHelloRequest request;
    request.set_protocol(1);
    return to.Call<v1::UpcallHelloRequest, v1::UpcallHelloResponse>(upcall::kServiceName, "Hello",
                                                                    request, {.timeout = 30s});
  }

  // A number of the agent's /proc/PID/status.
  int64_t StatusOf(const std::string& field) const {
    std::ifstream status("/proc/" + std::to_string(agent->pid()) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with(field)) {
        return std::stoll(line.substr(field.size()));
      }
    }
    return -1;
  }

  std::unique_ptr<AgentProcess> agent;
  std::unique_ptr<ttrpc::Client> client;
};

TEST_F(UpcallTest, EachApiIsOnItsOwnSocketOnly) {
  EXPECT_EQ(CodeOf(Hello(*client)), Code::kOk);
  EXPECT_EQ(CodeOf(Hello(agent->client())), Code::kUnimplemented);
  const auto other = client->Call<v1::HelloRequest, v1::HelloResponse>(
      AgentProcess::kService, "Hello", v1::HelloRequest(), {.timeout = 30s});
  EXPECT_EQ(CodeOf(other), Code::kUnimplemented);
}

TEST_F(UpcallTest, CpuIsTakenOnlineInTheGivenMachineAndInNoOther) {
  const std::string cpus = "/sys/devices/system/cpu/";
  Put(cpus + "online", "0-1\n");
  Put(cpus + "cpu0/online", "1\n");
  Put(cpus + "cpu1/online", "0\n");
  ASSERT_EQ(CodeOf(Hello(*client)), Code::kOk);
  v1::CpuRequest request;
  request.add_id(0);
  request.add_id(1);
  const auto answer = client->Call<v1::CpuRequest, v1::CpuResponse>(
      upcall::kServiceName, "CpuOnline", request, {.timeout = 30s});
  ASSERT_TRUE(answer.has_value()) << answer.error().message();
  EXPECT_EQ(answer->online_size(), 2);
  EXPECT_EQ(answer->refused_size(), 0);
  EXPECT_EQ(ReadFile(agent->dir() + "/machine" + cpus + "cpu1/online").value_or(""), "1");
}

// All three lanes at work: three threads, and little memory for them.
TEST_F(UpcallTest, ThreadsAreThreeAndSmall) {
  Put("/sys/devices/system/cpu/online", "0\n");
  Put("/sys/devices/system/memory/block_size_bytes", "8000000\n");
  ASSERT_EQ(CodeOf(Hello(*client)), Code::kOk);
  const int64_t before = StatusOf("VmRSS:");
  v1::CpuRequest cpu;
  cpu.add_id(0);
  v1::MemoryRequest memory;
  memory.set_size(1U << 30);
  v1::PciRemoveRequest pci;
  pci.set_address("0000:00:05.0");
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(
        (client->Call<v1::CpuRequest, v1::CpuResponse>(upcall::kServiceName, "CpuOnline", cpu)));
    EXPECT_TRUE((client->Call<v1::MemoryRequest, v1::MemoryResponse>(upcall::kServiceName,
                                                                     "MemoryOnline", memory)));
    EXPECT_TRUE((client->Call<v1::PciRemoveRequest, v1::PciRemoveResponse>(upcall::kServiceName,
                                                                           "PciRemove", pci)));
  }
  EXPECT_EQ(StatusOf("Threads:"), 4);
  const int64_t more = StatusOf("VmRSS:") - before;
  std::cout << "VmRSS of the upcall's threads: " << more << " KiB\n";
#ifndef WV_SANITIZED
  EXPECT_LT(more, 768);
#endif
}

}  // namespace
}  // namespace wyvern::agent
