#include "api/vmm_server.h"

#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "api/donation.h"
#include "api/requests.h"
#include "api/vmm_service.h"
#include "base/unix_socket.h"
#include "proto/vmm.grpc.pb.h"

namespace wyvern::api {
namespace {

class FakeMachine : public VirtualMachine {
 public:
  Result<> Create(MachineSpec spec) override {
    created_ = std::move(spec);
    return {};
  }

  Result<AttachedDevice> Attach(const std::string& id, DeviceSpec spec,
                                std::chrono::milliseconds patience) override {
    patience_ = patience;
    if (id == "taken") {
      return Fail(Code::kAlreadyExists, "a device taken is already here");
    }
    last_device_ = spec.index();
    if (const auto* fs = std::get_if<VhostUserFsSpec>(&spec); fs != nullptr) {
      dax_window_ = fs->dax_window;
    }
    if (auto* pmem = std::get_if<PmemSpec>(&spec); pmem != nullptr) {
      images_ = std::move(pmem->images);
    }
    return AttachedDevice{"0000:00:01.0", "vda", 253, 16};
  }

  Result<> Detach(const DetachOptions& options) override {
    detached_ = options;
    if (options.id != "here") {
      return Fail(Code::kNotFound, "no device " + options.id);
    }
    return {};
  }

  Result<ResizedMemory> ResizeMemory(uint64_t bytes, std::chrono::milliseconds patience) override {
    patience_ = patience;
    return ResizedMemory{bytes - (2 << 20U), 4 << 20U, "the guest keeps some"};
  }

  Result<ResizedVcpus> ResizeVcpus(uint32_t vcpus, std::chrono::milliseconds patience) override {
    patience_ = patience;
    return ResizedVcpus{vcpus - 1, "one is busy"};
  }

  Result<MachineSize> Size() override { return MachineSize{64 << 20U, {{0, 71}, {2, 73}}}; }

  void EndWaits() override { ended_ = true; }

  Result<> Boot() override {
    for (int i = 0; i < news_at_boot_; ++i) {
      listener_({EventKind::kResized, "some vCPUs"});
    }
    if (listener_) {
      listener_({EventKind::kGuestPanic, "fake panic"});
    }
    return {};
  }

  Result<> ConnectVsock(uint32_t port, UniqueFd socket) override {
    if (port != 100) {
      return Fail(Code::kUnavailable, "the guest refused the connection");
    }
    return WriteAll(socket, std::string_view("hi"));
  }

  Result<> ResizeDisk(const std::string& id) override {
    return id == "here" ? Result<>() : Fail(Code::kNotFound, "no disk " + id);
  }

  Result<> Pause() override { return {}; }

  Result<> Resume() override { return {}; }

  MachineMetrics Metrics() override {
    return {.counters = {{"exits.io", 42}},
            .devices = {{"disk", "blk", {{"reads", 7}}}},
            .vcpus = {{1, {{"halt", 3}}}}};
  }

  void SetEventListener(std::function<void(MachineEvent)> listener) override {
    listener_ = std::move(listener);
  }

  MachineSpec created_;
  size_t last_device_ = 99;
  uint64_t dax_window_ = 99;
  std::chrono::milliseconds patience_{};
  DetachOptions detached_;
  std::atomic<bool> ended_{false};
  std::vector<UniqueFd> images_;
  int news_at_boot_ = 0;
  std::function<void(MachineEvent)> listener_;
};

class VmmServerTest : public testing::Test {
 protected:
  VmmServerTest() {
    SocketPair grpc_pair = *MakeSocketPair(SOCK_STREAM);
    SocketPair donation_pair = *MakeSocketPair(SOCK_SEQPACKET);
    EXPECT_TRUE(SetNonBlocking(grpc_pair.first, true));
    server_ =
        std::thread([this, a = grpc_pair.second.Release(), b = donation_pair.second.Release()] {
          EXPECT_TRUE(ServeVmm({UniqueFd(a), UniqueFd(b), "test"}, machine_));
        });
    stub_ =
        vmm::v1::Vmm::NewStub(grpc::CreateInsecureChannelFromFd("vmm", grpc_pair.first.Release()));
    donate_ = std::make_unique<DonationClient>(std::move(donation_pair.first));
  }

  void TearDown() override {
    donate_.reset();
    server_.join();
  }

  vmm::v1::CreateRequest GoodCreate() {
    const UniqueFd null = *Open("/dev/null", O_RDONLY);
    EXPECT_TRUE(donate_->Donate(DonationKind::kKvm, "kvm", null));
    EXPECT_TRUE(donate_->Donate(DonationKind::kKernel, "kernel", null));
    vmm::v1::CreateRequest request;
    request.set_vcpus(2);
    request.set_memory_bytes(256ULL << 20U);
    request.set_kvm_fd("kvm");
    request.set_kernel_fd("kernel");
    return request;
  }

  grpc::Status Create(const vmm::v1::CreateRequest& request) {
    grpc::ClientContext context;
    vmm::v1::CreateResponse response;
    return stub_->Create(&context, request, &response);
  }

  grpc::Status Attach(const vmm::v1::AttachDeviceRequest& request) {
    grpc::ClientContext context;
    vmm::v1::AttachDeviceResponse response;
    return stub_->AttachDevice(&context, request, &response);
  }

  FakeMachine machine_;
  std::thread server_;
  std::unique_ptr<vmm::v1::Vmm::Stub> stub_;
  std::unique_ptr<DonationClient> donate_;
};

TEST_F(VmmServerTest, CreateTakesTheDonatedDescriptors) {
  const grpc::Status status = Create(GoodCreate());
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(machine_.created_.kvm.valid());
  EXPECT_FALSE(machine_.created_.initrd.valid());
  EXPECT_EQ(machine_.created_.vcpus, 2U);
}

TEST_F(VmmServerTest, CreateWithoutADonationSaysWhichIsMissing) {
  vmm::v1::CreateRequest request = GoodCreate();
  request.set_kernel_fd("other");
  const grpc::Status status = Create(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_NE(status.error_message().find("\"other\""), std::string::npos);
}

TEST_F(VmmServerTest, CreateRefusesWhatNoMachineCanBe) {
  for (const uint32_t vcpus : {0U, 9U, UINT32_MAX}) {
    vmm::v1::CreateRequest request;
    request.set_vcpus(vcpus);
    EXPECT_EQ(Create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  for (const uint64_t memory : std::initializer_list<uint64_t>{
           0, 1ULL << 20U, (256ULL << 20U) + 4096, UINT64_MAX, 1ULL << 62U}) {
    vmm::v1::CreateRequest request;
    request.set_vcpus(1);
    request.set_memory_bytes(memory);
    EXPECT_EQ(Create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << memory;
  }
  vmm::v1::CreateRequest request;
  request.set_vcpus(1);
  request.set_memory_bytes(256ULL << 20U);
  request.set_cmdline("a\nb");
  EXPECT_EQ(Create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(VmmServerTest, PagesOfMemoryAreOneOfTheKnownKinds) {
  vmm::v1::CreateRequest request = GoodCreate();
  for (const int pages : {-1, 4, 1 << 30}) {
    request.set_ram_pages(static_cast<vmm::v1::RamPages>(pages));
    EXPECT_EQ(Create(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << pages;
  }
  request.set_ram_pages(vmm::v1::RAM_PAGES_1GIB);
  ASSERT_TRUE(Create(request).ok());
  EXPECT_EQ(machine_.created_.ram_pages, RamPages::k1GiB);
}

TEST_F(VmmServerTest, AttachAndDetachTellTheMachineAndTheAnswer) {
  const auto attach = [&](uint32_t deadline, vmm::v1::AttachDeviceResponse* response) {
    grpc::ClientContext context;
    vmm::v1::AttachDeviceRequest request;
    request.set_id("rng0");
    request.mutable_rng();
    request.set_deadline_ms(deadline);
    return stub_->AttachDevice(&context, request, response).error_code();
  };
  vmm::v1::AttachDeviceResponse response;
  EXPECT_EQ(attach(0, &response), grpc::StatusCode::OK);
  EXPECT_EQ(machine_.patience_, kDefaultPatience);
  EXPECT_EQ(response.pci_address(), "0000:00:01.0");
  EXPECT_EQ(response.node(), "vda");
  EXPECT_EQ(response.major(), 253U);
  EXPECT_EQ(response.minor(), 16U);
  EXPECT_EQ(attach(600'000, &response), grpc::StatusCode::OK);
  EXPECT_EQ(machine_.patience_, kMaxPatience);
  EXPECT_EQ(attach(600'001, &response), grpc::StatusCode::INVALID_ARGUMENT);

  const auto detach = [&](const std::string& id, uint32_t deadline) {
    grpc::ClientContext context;
    vmm::v1::DetachDeviceRequest request;
    request.set_id(id);
    request.set_force(true);
    request.set_deadline_ms(deadline);
    vmm::v1::Empty empty;
    return stub_->DetachDevice(&context, request, &empty).error_code();
  };
  EXPECT_EQ(detach("here", 7), grpc::StatusCode::OK);
  EXPECT_EQ(machine_.detached_.id, "here");
  EXPECT_TRUE(machine_.detached_.force);
  EXPECT_EQ(machine_.detached_.patience, std::chrono::milliseconds(7));
  EXPECT_EQ(detach("elsewhere", 0), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(detach("", 0), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(detach("here", 600'001), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(VmmServerTest, ResizeVcpusTellsHowManyRun) {
  grpc::ClientContext context;
  vmm::v1::ResizeVcpusRequest request;
  request.set_vcpus(4);
  request.set_deadline_ms(7);
  vmm::v1::ResizeVcpusResponse response;
  ASSERT_TRUE(stub_->ResizeVcpus(&context, request, &response).ok());
  EXPECT_EQ(machine_.patience_, std::chrono::milliseconds(7));
  EXPECT_EQ(response.vcpus(), 3U);
  EXPECT_EQ(response.why(), "one is busy");
  vmm::v1::CreateRequest create = GoodCreate();
  for (const uint32_t max : {1U, 33U}) {
    create.set_max_vcpus(max);
    EXPECT_EQ(Create(create).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << max;
  }
  create.set_max_vcpus(32);
  EXPECT_TRUE(Create(create).ok());
  EXPECT_EQ(machine_.created_.max_vcpus, 32U);
}

TEST_F(VmmServerTest, ResizeMemoryTellsHowFarTheGuestCame) {
  grpc::ClientContext context;
  vmm::v1::ResizeMemoryRequest request;
  request.set_memory_bytes(64 << 20U);
  vmm::v1::ResizeMemoryResponse response;
  ASSERT_TRUE(stub_->ResizeMemory(&context, request, &response).ok());
  EXPECT_EQ(machine_.patience_, kDefaultPatience);
  EXPECT_EQ(response.memory_bytes(), 62U << 20U);
  EXPECT_EQ(response.online_bytes(), 4U << 20U);
  EXPECT_EQ(response.why(), "the guest keeps some");
  grpc::ClientContext late;
  request.set_deadline_ms(600'001);
  EXPECT_EQ(stub_->ResizeMemory(&late, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(VmmServerTest, ResizeDiskIsOfAnIdThatCanBe) {
  const auto resize = [&](const std::string& id) {
    grpc::ClientContext context;
    vmm::v1::ResizeDiskRequest request;
    request.set_id(id);
    vmm::v1::Empty empty;
    return stub_->ResizeDisk(&context, request, &empty).error_code();
  };
  EXPECT_EQ(resize("here"), grpc::StatusCode::OK);
  EXPECT_EQ(resize("elsewhere"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(resize(""), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(resize(std::string(64, 'x')), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(VmmServerTest, SizeIsWhatRuns) {
  grpc::ClientContext context;
  vmm::v1::SizeResponse response;
  ASSERT_TRUE(stub_->Size(&context, vmm::v1::Empty(), &response).ok());
  EXPECT_EQ(response.memory_bytes(), 64U << 20U);
  ASSERT_EQ(response.vcpu_size(), 2);
  EXPECT_EQ(response.vcpu(1).vcpu(), 2U);
  EXPECT_EQ(response.vcpu(1).thread(), 73U);
}

TEST_F(VmmServerTest, NetAndConsoleAreCheckedAndTakeWhatWasDonated) {
  const UniqueFd null = *Open("/dev/null", O_RDONLY);
  vmm::v1::AttachDeviceRequest request;
  request.set_id("eth0");
  auto* net = request.mutable_net();
  net->set_mac(std::string("\x02\0\0\0\0\x01", 6));
  net->set_mtu(1500);
  net->set_queue_size(256);
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // no tap
  net->add_fd("tap");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(donate_->Donate(DonationKind::kTap, "tap", null));
  for (const uint32_t mtu : {1U, 67U, 65536U}) {
    net->set_mtu(mtu);
    EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << mtu;
  }
  net->set_mtu(68);
  for (const uint32_t size : {0U, 1U, 3U, 2048U}) {
    net->set_queue_size(size);
    EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << size;
  }
  net->set_queue_size(256);
  EXPECT_TRUE(Attach(request).ok());

  auto* other = request.mutable_vhost_user_net();
  other->set_mac(std::string("\x02\0\0\0\0\x01", 6));
  other->set_mtu(65520);
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // no size
  other->set_queue_size(256);
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::NOT_FOUND);  // no socket
  other->set_socket_fd("socket");
  ASSERT_TRUE(donate_->Donate(DonationKind::kTap, "socket", null));
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "a tap is none";
  other->set_socket_fd("vhost");
  ASSERT_TRUE(donate_->Donate(DonationKind::kVhostUser, "vhost", null));
  EXPECT_TRUE(Attach(request).ok());

  auto* ports = request.mutable_console();
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // no port
  ports->add_port()->set_name("wyvern.upcall");
  EXPECT_TRUE(Attach(request).ok());
  // Nobody else has that port, and every other one has a socket.
  ports->mutable_port(0)->set_fd("s");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  ports->mutable_port(0)->set_name("mine");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(donate_->Donate(DonationKind::kStream, "s", null));
  EXPECT_TRUE(Attach(request).ok());
  ports->mutable_port(0)->clear_fd();
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  for (const char* name : {"", "a/b", "A", "a b"}) {
    ports->mutable_port(0)->set_name(name);
    EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
  }
}

// The server waits for its handlers: one that waits for a guest must not keep the process alive.
TEST_F(VmmServerTest, WaitsEndBeforeTheServerDoes) {
  EXPECT_FALSE(machine_.ended_);
  donate_.reset();
  server_.join();
  EXPECT_TRUE(machine_.ended_);
  server_ = std::thread([] {});
}

TEST_F(VmmServerTest, AttachPassesErrorsAndRefusesBadDevices) {
  vmm::v1::AttachDeviceRequest request;
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_id("vsock0");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);  // no device
  for (const uint64_t cid : std::initializer_list<uint64_t>{0, 2, 0xffffffff, UINT64_MAX}) {
    request.mutable_vsock()->set_guest_cid(cid);
    EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << cid;
  }
  request.mutable_vsock()->set_guest_cid(3);
  EXPECT_TRUE(Attach(request).ok());
  request.set_id("taken");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  request.mutable_vhost_user_fs()->set_tag("wyvern");
  request.mutable_vhost_user_fs()->set_request_queues(1);
  request.mutable_vhost_user_fs()->set_queue_size(3);
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_blk()->set_serial(std::string(21, 'x'));
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(VmmServerTest, DaxWindowIsNoneOrAPowerOfTwoWithinBounds) {
  vmm::v1::AttachDeviceRequest request;
  request.set_id("fs0");
  auto* fs = request.mutable_vhost_user_fs();
  fs->set_tag("wyvern");
  fs->set_request_queues(1);
  fs->set_queue_size(128);
  fs->set_socket_fd("fs");
  for (const uint64_t size :
       std::initializer_list<uint64_t>{1, 4096, 1ULL << 20U, 3ULL << 20U, (2ULL << 20U) + 1,
                                       32ULL << 30U, 1ULL << 63U, UINT64_MAX}) {
    fs->set_dax_window_bytes(size);
    const grpc::Status status = Attach(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << size;
    EXPECT_NE(status.error_message().find("dax_window_bytes"), std::string::npos);
  }
  const UniqueFd null = *Open("/dev/null", O_RDONLY);
  for (const uint64_t size : std::initializer_list<uint64_t>{0, 2ULL << 20U, 16ULL << 30U}) {
    ASSERT_TRUE(donate_->Donate(DonationKind::kVhostUser, "fs", null));
    fs->set_dax_window_bytes(size);
    const grpc::Status status = Attach(request);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(machine_.dax_window_, size);
  }
}

TEST_F(VmmServerTest, PmemTakesItsImagesInTheOrderThatTheyAreNamed) {
  for (const uint64_t size : {1, 2, 3}) {
    const UniqueFd image = *MakeMemfd("image", size);
    ASSERT_TRUE(donate_->Donate(DonationKind::kImage, "i" + std::to_string(size), image));
  }
  vmm::v1::AttachDeviceRequest request;
  request.set_id("pmem0");
  for (const char* name : {"i3", "i1", "i2"}) {
    request.mutable_pmem()->add_fd(name);
  }
  const grpc::Status status = Attach(request);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(machine_.images_.size(), 3U);
  EXPECT_EQ(Fstat(machine_.images_[0])->st_size, 3);
  EXPECT_EQ(Fstat(machine_.images_[1])->st_size, 1);
  EXPECT_EQ(Fstat(machine_.images_[2])->st_size, 2);
}

TEST_F(VmmServerTest, PmemWithoutImagesWithTooManyOrUnknownOnesIsRefused) {
  vmm::v1::AttachDeviceRequest request;
  request.set_id("pmem0");
  auto* pmem = request.mutable_pmem();
  grpc::Status status = Attach(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "pmem.fd must name 1 to 16 images");
  const UniqueFd image = *MakeMemfd("image", 4096);
  ASSERT_TRUE(donate_->Donate(DonationKind::kImage, "i", image));
  ASSERT_TRUE(donate_->Donate(DonationKind::kBlock, "b", image));
  // One image is taken once.
  pmem->add_fd("i");
  pmem->add_fd("i");
  status = Attach(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_NE(status.error_message().find("\"i\""), std::string::npos) << status.error_message();
  pmem->clear_fd();
  pmem->add_fd("b");
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  pmem->clear_fd();
  for (size_t i = 0; i < kMaxImages + 1; ++i) {
    pmem->add_fd("i");
  }
  EXPECT_EQ(Attach(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(machine_.images_.empty());
}

TEST_F(VmmServerTest, ConnectVsockHandsTheStreamOverOrSaysThatTheGuestRefused) {
  SocketPair pair = *MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(donate_->Donate(DonationKind::kStream, "s:1", pair.second));
  pair.second.Reset();
  vmm::v1::ConnectVsockRequest request;
  request.set_port(100);
  request.set_fd("s:1");
  vmm::v1::Empty empty;
  {
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->ConnectVsock(&context, request, &empty).ok());
  }
  EXPECT_EQ(*ReadToEnd(pair.first, 100), "hi");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->ConnectVsock(&context, request, &empty).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(VmmServerTest, EventsReachTheWatcherAndTheStreamEndsWithTheServer) {
  grpc::ClientContext watch_context;
  const auto reader = stub_->WatchEvents(&watch_context, {});
  grpc::ClientContext context;
  vmm::v1::Empty empty;
  ASSERT_TRUE(stub_->Boot(&context, {}, &empty).ok());
  vmm::v1::Event event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.kind(), vmm::v1::Event::GUEST_PANIC);
  EXPECT_EQ(event.text(), "fake panic");
  grpc::ClientContext shutdown_context;
  ASSERT_TRUE(stub_->Shutdown(&shutdown_context, {}, &empty).ok());
  EXPECT_FALSE(reader->Read(&event));
}

TEST_F(VmmServerTest, NewsDoesNotDisplaceTheEndOfTheMachine) {
  machine_.news_at_boot_ = 1000;
  vmm::v1::Empty empty;
  grpc::ClientContext boot_context;
  ASSERT_TRUE(stub_->Boot(&boot_context, {}, &empty).ok());
  grpc::ClientContext context;
  const auto reader = stub_->WatchEvents(&context, {});
  vmm::v1::Event event;
  size_t news = 0;
  while (reader->Read(&event) && event.kind() == vmm::v1::Event::RESIZED) {
    ++news;
  }
  EXPECT_EQ(event.kind(), vmm::v1::Event::GUEST_PANIC);
  EXPECT_EQ(news, kMaxPendingNews);
  context.TryCancel();
}

TEST_F(VmmServerTest, MetricsAreCounters) {
  grpc::ClientContext context;
  vmm::v1::MetricsResponse response;
  ASSERT_TRUE(stub_->Metrics(&context, {}, &response).ok());
  EXPECT_EQ(response.counters().at("exits.io"), 42U);
  EXPECT_EQ(response.counters().at("disk.reads"), 7U);
  ASSERT_EQ(response.device_size(), 1);
  EXPECT_EQ(response.device(0).id(), "disk");
  EXPECT_EQ(response.device(0).kind(), "blk");
  EXPECT_EQ(response.device(0).counters().at("reads"), 7U);
  ASSERT_EQ(response.vcpu_size(), 1);
  EXPECT_EQ(response.vcpu(0).id(), 1U);
  EXPECT_EQ(response.vcpu(0).exits().at("halt"), 3U);
}

}  // namespace
}  // namespace wyvern::api
