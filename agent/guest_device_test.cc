#include "agent/guest_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/testing/upcall_harness.h"

namespace wyvern::agent {
namespace {

using testing::HasSubstr;

constexpr char kAddress[] = "0000:00:05.0";

class GuestDeviceTest : public testing::Test {
 protected:
  // Plugs a device and asks for it.
  Result<v1::PciRescanResponse> Find(FakeKernel::Device device,
                                     const v1::DeviceIdentity& identity) {
    device.address = kAddress;
    kernel.Plug(std::move(device));
    return FindAgain(identity);
  }

  Result<v1::PciRescanResponse> FindAgain(const v1::DeviceIdentity& identity) {
    v1::PciRescanRequest request;
    request.set_address(kAddress);
    *request.mutable_identity() = identity;
    request.set_deadline_ms(deadline_ms);
    return agent.Call<v1::PciRescanResponse>("PciRescan", request);
  }

  // Puts files below the device's directory, as its driver does.
  static auto Files(std::vector<std::pair<std::string, std::string>> files) {
    return [files = std::move(files)](FakeKernel& kernel, const std::string& virtio) {
      for (const auto& [name, text] : files) {
        kernel.Put(name.starts_with('/') ? name : virtio + "/" + name, text + "\n");
      }
    };
  }

  UpcallHarness agent;
  FakeKernel& kernel = agent.kernel;
  v1::DeviceIdentity identity;
  uint32_t deadline_ms = 10000;
};

TEST_F(GuestDeviceTest, IdentityBeyondItsBoundsIsRefused) {
  const auto refused = [this](auto&& change) {
    v1::DeviceIdentity bad;
    change(bad);
    return CodeOf(FindAgain(bad)) == Code::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](auto&) {}));
  EXPECT_TRUE(refused([](auto& i) { i.mutable_blk()->set_serial(std::string(21, 'x')); }));
  EXPECT_TRUE(refused([](auto& i) { i.mutable_fs()->set_tag(""); }));
  EXPECT_TRUE(refused([](auto& i) { i.mutable_fs()->set_tag(std::string(37, 'x')); }));
  EXPECT_TRUE(refused([](auto& i) { i.mutable_net()->set_mac("12345"); }));
  EXPECT_TRUE(refused([](auto& i) { i.mutable_console()->set_port(std::string(121, 'x')); }));
}

TEST_F(GuestDeviceTest, DiskWithoutASerialHasNone) {
  identity.mutable_blk();
  const auto found = Find(FakeKernel::Disk(kAddress, "vda", ""), identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "vda");
}

TEST_F(GuestDeviceTest, InterfaceIsFoundByItsAddress) {
  identity.mutable_net()->set_mac(std::string("\x02\x00\xab\xcd\x00\xff", 6));
  const auto found = Find({.id = "0x0001",
                           .driver = "virtio_net",
                           .nodes = Files({{"net/eth1/address", "02:00:ab:cd:00:ff"}})},
                          identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "eth1");
  identity.mutable_net()->set_mac(std::string(6, '\0'));
  EXPECT_EQ(CodeOf(FindAgain(identity)), Code::kAlreadyExists);
}

TEST_F(GuestDeviceTest, ShareIsFoundByItsTag) {
  identity.mutable_fs()->set_tag("data");
  const auto found =
      Find({.id = "0x001a",
            .driver = "virtiofs",
            .nodes =
                [](FakeKernel& kernel, const std::string&) {
                  kernel.Put("/sys/fs/virtiofs/1/tag", "data\n");
                  kernel.Link("/sys/fs/virtiofs/1/device", "../../../devices/pci0000:00/virtio1");
                }},
           identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "data");
  identity.mutable_fs()->set_tag("date");
  EXPECT_EQ(CodeOf(FindAgain(identity)), Code::kAlreadyExists);
}

TEST_F(GuestDeviceTest, KernelThatShowsNoTagsIsBelieved) {
  identity.mutable_fs()->set_tag("data");
  const auto found = Find({.id = "0x001a", .driver = "virtiofs"}, identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "data");
}

TEST_F(GuestDeviceTest, MountedShareIsInUse) {
  identity.mutable_fs()->set_tag("data");
  ASSERT_TRUE(Find({.id = "0x001a",
                    .driver = "virtiofs",
                    .nodes =
                        [](FakeKernel& kernel, const std::string&) {
                          kernel.Put("/sys/fs/virtiofs/1/tag", "data\n");
                          kernel.Link("/sys/fs/virtiofs/1/device", "../../x/virtio1");
                        }},
                   identity));
  kernel.Put("/proc/self/mountinfo", "36 25 0:31 / /run/x rw shared:1 - virtiofs data rw\n");
  v1::PciRemoveRequest request;
  request.set_address(kAddress);
  const auto refused = agent.Call<v1::PciRemoveResponse>("PciRemove", request);
  EXPECT_EQ(CodeOf(refused), Code::kFailedPrecondition);
  EXPECT_THAT(TextOf(refused), HasSubstr("share data"));
  kernel.Delete("/proc/self/mountinfo");
  EXPECT_EQ(CodeOf(agent.Call<v1::PciRemoveResponse>("PciRemove", request)),
            Code::kFailedPrecondition);
  kernel.Put("/proc/self/mountinfo", "36 25 0:31 / /run/x rw shared:1 - virtiofs data2 rw\n");
  EXPECT_TRUE(agent.Call<v1::PciRemoveResponse>("PciRemove", request));
}

TEST_F(GuestDeviceTest, MemoryOfWhichTheKernelHasBlocksIsInUse) {
  identity.mutable_mem();
  ASSERT_TRUE(Find({.id = "0x0018", .driver = "virtio_mem"}, identity));
  kernel.Put("/proc/iomem",
             "100000000-13fffffff : virtio1\n"
             "  100000000-107ffffff : System RAM (virtio_mem)\n");
  v1::PciRemoveRequest request;
  request.set_address(kAddress);
  const auto refused = agent.Call<v1::PciRemoveResponse>("PciRemove", request);
  EXPECT_EQ(CodeOf(refused), Code::kFailedPrecondition);
  EXPECT_THAT(TextOf(refused), HasSubstr("the kernel still has memory of it"));
  kernel.Put("/proc/iomem", "100000000-13fffffff : virtio1\n");
  EXPECT_TRUE(agent.Call<v1::PciRemoveResponse>("PciRemove", request));
}

TEST_F(GuestDeviceTest, SecondShareWithTheSameTagIsRefusedWithTheReason) {
  kernel.Plug({.address = "0000:00:04.0",
               .id = "0x001a",
               .driver = "virtiofs",
               .nodes = [](FakeKernel& fake, const std::string&) {
                 fake.Put("/sys/fs/virtiofs/1/tag", "data\n");
                 fake.Link("/sys/fs/virtiofs/1/device", "../../x/virtio1");
               }});
  identity.mutable_fs()->set_tag("data");
  const auto refused = Find({.id = "0x001a", .driver = ""}, identity);
  EXPECT_EQ(CodeOf(refused), Code::kAlreadyExists);
  EXPECT_THAT(TextOf(refused), HasSubstr("the tag data is that of virtio1"));
}

TEST_F(GuestDeviceTest, VsockIsFoundByItsCid) {
  identity.mutable_vsock()->set_guest_cid(7);
  kernel.SetCid(7);
  const auto found = Find({.id = "0x0013", .driver = "vmw_vsock_virtio_transport"}, identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "virtio1");
  kernel.SetCid(8);
  EXPECT_EQ(CodeOf(FindAgain(identity)), Code::kAlreadyExists);
}

TEST_F(GuestDeviceTest, SecondVsockIsRefusedWithTheReason) {
  kernel.Plug({.address = "0000:00:04.0", .id = "0x0013", .driver = "vmw_vsock_virtio_transport"});
  kernel.SetCid(3);
  identity.mutable_vsock()->set_guest_cid(7);
  const auto refused = Find({.id = "0x0013", .driver = ""}, identity);
  EXPECT_EQ(CodeOf(refused), Code::kAlreadyExists);
  EXPECT_THAT(TextOf(refused), HasSubstr("one vsock device at a time"));
}

TEST_F(GuestDeviceTest, PmemIsFoundByItsSizeAndItsNamespace) {
  identity.mutable_pmem()->set_size(64U << 20);
  const std::string block = "ndbus0/region0/namespace0.0/block/pmem1/";
  const auto found = Find(
      {.id = "0x001b",
       .driver = "virtio_pmem",
       .nodes = Files({{block + "size", "131072"}, {block + "dev", "259:1"}, {"/dev/pmem1", ""}})},
      identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "pmem1");
  EXPECT_EQ(found->major(), 259U);
  identity.mutable_pmem()->set_size(32U << 20);
  EXPECT_EQ(CodeOf(FindAgain(identity)), Code::kAlreadyExists);
}

TEST_F(GuestDeviceTest, NodeWithoutItsFileInDevIsNotThereYet) {
  identity.mutable_blk()->set_serial("x");
  deadline_ms = 300;
  const auto found =
      Find({.nodes = Files({{"block/vdb/serial", "x"}, {"block/vdb/dev", "254:0"}})}, identity);
  EXPECT_EQ(CodeOf(found), Code::kDeadlineExceeded);
  kernel.Put("/dev/vdb", "");
  deadline_ms = 10000;
  EXPECT_TRUE(FindAgain(identity));
}

TEST_F(GuestDeviceTest, PlainDevicesAreTheirDriver) {
  const struct {
    const char* id;
    const char* driver;
    std::function<void(v1::DeviceIdentity&)> make;
  } kinds[] = {{"0x0004", "virtio_rng", [](auto& i) { i.mutable_rng(); }},
               {"0x0005", "virtio_balloon", [](auto& i) { i.mutable_balloon(); }},
               {"0x0018", "virtio_mem", [](auto& i) { i.mutable_mem(); }}};

  for (const auto& kind : kinds) {
    kind.make(identity);
    const auto found = Find({.id = kind.id, .driver = kind.driver}, identity);
    ASSERT_TRUE(found) << TextOf(found);
    EXPECT_THAT(found->node(), HasSubstr("virtio"));
    v1::PciRemoveRequest remove;
    remove.set_address(kAddress);
    EXPECT_TRUE(agent.Call<v1::PciRemoveResponse>("PciRemove", remove));
  }
}

TEST_F(GuestDeviceTest, ConsoleIsFoundByItsPort) {
  identity.mutable_console()->set_port("wyvern.upcall");
  const auto found = Find({.id = "0x0003",
                           .driver = "virtio_console",
                           .nodes = Files({{"virtio-ports/vport1p0/name", "other"},
                                           {"virtio-ports/vport1p1/name", "wyvern.upcall"},
                                           {"virtio-ports/vport1p1/dev", "244:1"},
                                           {"/dev/vport1p1", ""}})},
                          identity);
  ASSERT_TRUE(found) << TextOf(found);
  EXPECT_EQ(found->node(), "vport1p1");
  EXPECT_EQ(found->minor(), 1U);
  identity.mutable_console()->set_port("");
  EXPECT_EQ(FindAgain(identity)->node(), "");
}

TEST_F(GuestDeviceTest, AnotherKindIsSaid) {
  identity.mutable_rng();
  const auto found = Find(FakeKernel::Disk(kAddress, "vda", "x"), identity);
  EXPECT_EQ(CodeOf(found), Code::kAlreadyExists);
  EXPECT_THAT(TextOf(found), HasSubstr("device id is \"0x0002\""));
}

TEST_F(GuestDeviceTest, KernelWithoutTheDriverNamesIt) {
  identity.mutable_balloon();
  kernel.Delete("/sys/bus/virtio/drivers/virtio_balloon");
  const auto found = Find({.id = "0x0005", .driver = ""}, identity);
  EXPECT_EQ(CodeOf(found), Code::kUnimplemented);
  EXPECT_THAT(TextOf(found), HasSubstr("CONFIG_VIRTIO_BALLOON"));
}

TEST_F(GuestDeviceTest, DriverThatRefusedSaysWhy) {
  identity.mutable_blk();
  kernel.OnWrite("/sys/bus/virtio/drivers/virtio_blk/bind",
                 [](const std::string&) { return SysErrorFrom(EINVAL, "write"); });
  const auto found = Find({.driver = "", .nodes = Files({{"status", "0x0000008b"}})}, identity);
  EXPECT_EQ(CodeOf(found), Code::kUnavailable);
  EXPECT_THAT(TextOf(found), HasSubstr("errno 22"));
}

// The device ignores the second attempt of a driver that had given up (VIRTIO 1.4 §2.1.1), so it works for the kernel only.
TEST_F(GuestDeviceTest, DriverThatRefusedFirstIsNotTrustedThen) {
  identity.mutable_rng();
  kernel.OnWrite("/sys/bus/virtio/drivers/virtio_rng/bind",
                 [this](const std::string& device) -> Result<> {
                   kernel.Link("/sys/bus/virtio/devices/" + device + "/driver", "x/virtio_rng");
                   return {};
                 });
  const auto found =
      Find({.id = "0x0004", .driver = "", .nodes = Files({{"status", "0x0000008b"}})}, identity);
  EXPECT_EQ(CodeOf(found), Code::kUnavailable);
  EXPECT_THAT(TextOf(found), HasSubstr("added anew"));
}

TEST_F(GuestDeviceTest, DriverThatWasLateIsBound) {
  identity.mutable_rng();
  kernel.OnWrite("/sys/bus/virtio/drivers/virtio_rng/bind",
                 [this](const std::string& device) -> Result<> {
                   kernel.Link("/sys/bus/virtio/devices/" + device + "/driver", "x/virtio_rng");
                   return {};
                 });
  EXPECT_TRUE(Find({.id = "0x0004", .driver = ""}, identity));
}

}  // namespace
}  // namespace wyvern::agent
