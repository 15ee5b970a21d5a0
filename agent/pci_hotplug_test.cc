#include "agent/pci_hotplug.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/testing/upcall_harness.h"

namespace wyvern::agent {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kBus[] = "/sys/class/pci_bus/0000:00/rescan";

v1::PciRescanRequest DiskAt(const std::string& address, const std::string& serial,
                            uint32_t deadline_ms = 10000) {
  v1::PciRescanRequest request;
  request.set_address(address);
  request.mutable_identity()->mutable_blk()->set_serial(serial);
  request.set_deadline_ms(deadline_ms);
  return request;
}

v1::PciRemoveRequest RemoveOf(const std::string& address, bool force = false) {
  v1::PciRemoveRequest request;
  request.set_address(address);
  request.set_force(force);
  return request;
}

class PciHotplugTest : public testing::Test {
 protected:
  Result<v1::PciRescanResponse> Rescan(const v1::PciRescanRequest& request) {
    return agent.Call<v1::PciRescanResponse>("PciRescan", request);
  }

  Result<v1::PciRemoveResponse> Remove(const v1::PciRemoveRequest& request) {
    return agent.Call<v1::PciRemoveResponse>("PciRemove", request);
  }

  UpcallHarness agent;
  FakeKernel& kernel = agent.kernel;
};

TEST(PciPlaceTest, WhatIsNoAddressIsRefused) {
  for (const char* text :
       {"", "0000:00:05", "0000:00:05.8", "0000:00:20.0", "0000:01:05.0", "0000:00:5.0",
        "0000:00:0A.0", "0000:00:05.0/", "0000:00:05.0/8", "0000:00:05.0/00.0", "0000:00:05.0/0/0",
        "../../0000:00:05.0", "0000:00:05.0\n", "/0"}) {
    EXPECT_EQ(CodeOf(ParsePciPlace(text)), Code::kInvalidArgument) << text;
  }
}

TEST(PciPlaceTest, OnBusZeroAndBehindAPort) {
  EXPECT_EQ(ParsePciPlace("0000:00:1f.7")->function, "0000:00:1f.7");
  EXPECT_EQ(ParsePciPlace("0000:00:1f.7")->port, "");
  EXPECT_EQ(ParsePciPlace("0000:00:1e.3/1")->port, "0000:00:1e.3");
  EXPECT_EQ(ParsePciPlace("0000:00:1e.3/1")->function, "00.1");
}

TEST_F(PciHotplugTest, NothingThereIsNotFoundAfterOneRescan) {
  const auto found = Rescan(DiskAt("0000:00:05.0", "one"));
  EXPECT_EQ(CodeOf(found), Code::kNotFound);
  EXPECT_THAT(kernel.Writes(kBus), SizeIs(1));
}

TEST_F(PciHotplugTest, DiskIsFoundBySerial) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  const auto found = Rescan(DiskAt("0000:00:05.0", "one"));
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->pci_address(), "0000:00:05.0");
  EXPECT_EQ(found->node(), "vdb");
  EXPECT_EQ(found->major(), 254U);
  EXPECT_EQ(found->minor(), 16U);
}

TEST_F(PciHotplugTest, TheSameCallAgainAnswersTheSameWithoutARescan) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  const auto first = Rescan(DiskAt("0000:00:05.0", "one"));
  const auto second = Rescan(DiskAt("0000:00:05.0", "one"));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->SerializeAsString(), second->SerializeAsString());
  EXPECT_THAT(kernel.Writes(kBus), SizeIs(1));
}

TEST_F(PciHotplugTest, TheSameCallAtOnceAnswersTheSame) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  std::vector<std::future<Result<v1::PciRescanResponse>>> calls;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(agent.Begin<v1::PciRescanResponse>("PciRescan", DiskAt("0000:00:05.0", "one")));
  }
  for (auto& call : calls) {
    const auto found = call.get();
    ASSERT_TRUE(found) << TextOf(found);
    EXPECT_EQ(found->node(), "vdb");
  }
  EXPECT_THAT(kernel.Writes(kBus), SizeIs(1));
  EXPECT_EQ(kernel.FunctionCount(), 1U);
}

TEST_F(PciHotplugTest, AnotherDiskThereIsSaidAndLeftAlone) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "two"));
  const auto found = Rescan(DiskAt("0000:00:05.0", "one"));
  EXPECT_EQ(CodeOf(found), Code::kAlreadyExists);
  EXPECT_THAT(TextOf(found), HasSubstr("\"two\""));
  EXPECT_EQ(kernel.FunctionCount(), 1U);
}

TEST_F(PciHotplugTest, BehindAPortTheGuestNumbersTheBus) {
  kernel.AddPort("0000:00:1e.3", "0000:07");
  auto disk = FakeKernel::Disk("0000:07:00.0", "vdc", "deep");
  disk.port = "0000:00:1e.3";
  kernel.Plug(disk);
  const auto found = Rescan(DiskAt("0000:00:1e.3/0", "deep"));
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->pci_address(), "0000:07:00.0");
  EXPECT_THAT(kernel.Writes(kBus), IsEmpty());
  EXPECT_TRUE(Remove(RemoveOf("0000:00:1e.3/0")));
  EXPECT_EQ(kernel.FunctionCount(), 0U);
}

TEST_F(PciHotplugTest, PortThatIsNoneIsNotFound) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  EXPECT_THAT(TextOf(Rescan(DiskAt("0000:00:06.0/0", "one"))), HasSubstr("found no device there"));
  EXPECT_THAT(kernel.Writes(kBus), SizeIs(2)) << "a port may come with its device";
  const auto no_port = Rescan(DiskAt("0000:00:05.0/0", "one"));
  EXPECT_EQ(CodeOf(no_port), Code::kNotFound);
  EXPECT_THAT(TextOf(no_port), HasSubstr("is no port"));
}

TEST_F(PciHotplugTest, NodeThatComesLateIsWaitedForAndHoldsNoOtherUp) {
  auto slow = FakeKernel::Disk("0000:00:05.0", "vdb", "slow");
  slow.nodes = nullptr;
  kernel.Plug(slow);
  kernel.Plug(FakeKernel::Disk("0000:00:06.0", "vdc", "fast"));
  auto waits = agent.Begin<v1::PciRescanResponse>("PciRescan", DiskAt("0000:00:05.0", "slow"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:06.0", "fast")));
  EXPECT_EQ(waits.wait_for(0s), std::future_status::timeout);
  FakeKernel::Disk("", "vdb", "slow").nodes(kernel, "/sys/bus/pci/devices/0000:00:05.0/virtio1");
  agent.Wake();
  const auto found = waits.get();
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "vdb");
}

TEST_F(PciHotplugTest, DeadlineSaysHowFarItCame) {
  auto disk = FakeKernel::Disk("0000:00:05.0", "vdb", "one");
  disk.nodes = nullptr;
  kernel.Plug(disk);
  const auto late = Rescan(DiskAt("0000:00:05.0", "one", 500));
  EXPECT_EQ(CodeOf(late), Code::kDeadlineExceeded);
  EXPECT_THAT(TextOf(late), HasSubstr("the node had not appeared"));
}

TEST_F(PciHotplugTest, KernelThatHangsInTheRescanIsADeadlineAndTheNextCallWorks) {
  Gate gate;
  kernel.AddPort("0000:00:1e.0", "0000:01");
  kernel.OnWrite("/sys/bus/pci/devices/0000:00:1e.0/pci_bus/0000:01/rescan",
                 [wait = gate.waiter()](const std::string&) -> Result<> {
                   wait();
                   return {};
                 });
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  const auto hangs = Rescan(DiskAt("0000:00:1e.0/0", "x", 500));
  EXPECT_EQ(CodeOf(hangs), Code::kDeadlineExceeded);
  EXPECT_THAT(TextOf(hangs), HasSubstr("scanned the bus"));
  const auto behind = Rescan(DiskAt("0000:00:05.0", "one", 50));
  EXPECT_EQ(CodeOf(behind), Code::kDeadlineExceeded);
  EXPECT_THAT(TextOf(behind), HasSubstr("calls before it"));
  gate.Open();
  EXPECT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
}

TEST_F(PciHotplugTest, RefusedRescanIsAnError) {
  kernel.OnWrite(kBus, [](const std::string&) { return SysErrorFrom(EPERM, "write 1"); });
  const auto refused = Rescan(DiskAt("0000:00:05.0", "one"));
  EXPECT_EQ(CodeOf(refused), Code::kPermissionDenied);
}

TEST_F(PciHotplugTest, DeviceOfAnotherDriverIsNoVirtioDevice) {
  kernel.Put("/sys/bus/pci/devices/0000:00:05.0/class", "0x010802");
  kernel.Link("/sys/bus/pci/devices/0000:00:05.0/driver", "../../drivers/nvme");
  const auto found = Rescan(DiskAt("0000:00:05.0", "one"));
  EXPECT_EQ(CodeOf(found), Code::kAlreadyExists);
  EXPECT_THAT(TextOf(found), HasSubstr("nvme"));
}

TEST_F(PciHotplugTest, KernelWithoutVirtioPciSaysSo) {
  kernel.Put("/sys/bus/pci/devices/0000:00:05.0/class", "0x010000");
  kernel.Delete("/sys/bus/pci/drivers/virtio-pci");
  EXPECT_EQ(CodeOf(Rescan(DiskAt("0000:00:05.0", "one"))), Code::kUnimplemented);
}

TEST_F(PciHotplugTest, ProbeOfThePciDriverThatFailsGivesItsErrno) {
  kernel.Put("/sys/bus/pci/devices/0000:00:05.0/class", "0x010000");
  kernel.OnWrite("/sys/bus/pci/drivers/virtio-pci/bind",
                 [](const std::string&) { return SysErrorFrom(ENOMEM, "write"); });
  const auto refused = Rescan(DiskAt("0000:00:05.0", "one"));
  EXPECT_EQ(CodeOf(refused), Code::kUnavailable);
  EXPECT_THAT(TextOf(refused), HasSubstr("errno 12"));
}

TEST_F(PciHotplugTest, RemovedOnceTwiceAndWhenItNeverWas) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  EXPECT_TRUE(Remove(RemoveOf("0000:00:05.0")));
  EXPECT_EQ(kernel.FunctionCount(), 0U);
  EXPECT_TRUE(Remove(RemoveOf("0000:00:05.0")));
  EXPECT_TRUE(Remove(RemoveOf("0000:00:06.0")));
  EXPECT_TRUE(Remove(RemoveOf("0000:00:1e.0/0")));
}

TEST_F(PciHotplugTest, MountedDiskIsRemovedByForceOnly) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  kernel.SetClaimed("/dev/vdb", true);
  const auto refused = Remove(RemoveOf("0000:00:05.0"));
  EXPECT_EQ(CodeOf(refused), Code::kFailedPrecondition);
  EXPECT_THAT(TextOf(refused), HasSubstr("vdb is mounted"));
  EXPECT_EQ(kernel.FunctionCount(), 1U);
  EXPECT_TRUE(Remove(RemoveOf("0000:00:05.0", true)));
  EXPECT_EQ(kernel.FunctionCount(), 0U);
}

// Between the answer to PciRemove and the end of the function on the VMM's bus.
TEST_F(PciHotplugTest, WhatWasRemovedDoesNotComeBackWithAnothersRescan) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  ASSERT_TRUE(Remove(RemoveOf("0000:00:05.0")));
  kernel.Plug(FakeKernel::Disk("0000:00:06.0", "vdc", "two"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:06.0", "two")));
  EXPECT_EQ(kernel.FunctionCount(), 1U);
  EXPECT_FALSE(kernel.Exists("/sys/bus/pci/devices/0000:00:05.0"));
  // Asked for again it comes.
  EXPECT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  EXPECT_EQ(kernel.FunctionCount(), 2U);
}

TEST_F(PciHotplugTest, RemovalOfAnotherThatIsOnItsWayIsWaitedFor) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  const std::string function = "/sys/bus/pci/devices/0000:00:05.0";
  kernel.OnWrite(function + "/remove", [](const std::string&) -> Result<> { return {}; });
  auto waits = agent.Begin<v1::PciRemoveResponse>("PciRemove", RemoveOf("0000:00:05.0"));
  EXPECT_EQ(waits.wait_for(30ms), std::future_status::timeout);
  kernel.Delete(function);
  EXPECT_TRUE(waits.get());
}

TEST_F(PciHotplugTest, DriverThatDoesNotLetGoIsADeadline) {
  kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "one"));
  ASSERT_TRUE(Rescan(DiskAt("0000:00:05.0", "one")));
  Gate gate;
  kernel.OnWrite("/sys/bus/pci/devices/0000:00:05.0/remove",
                 [wait = gate.waiter()](const std::string&) -> Result<> {
                   wait();
                   return {};
                 });
  auto request = RemoveOf("0000:00:05.0");
  request.set_deadline_ms(500);
  const auto late = Remove(request);
  EXPECT_EQ(CodeOf(late), Code::kDeadlineExceeded);
  EXPECT_THAT(TextOf(late), HasSubstr("not let go"));
}

}  // namespace
}  // namespace wyvern::agent
