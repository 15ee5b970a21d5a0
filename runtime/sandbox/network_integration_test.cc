// What is in the namespace on the host is in the guest: at the start, before a container starts, and while it runs. The kernel's interfaces, taps
// and redirections are real; the agent is the test's, so that no network of this host is changed.
#include <gmock/gmock.h>

#include <thread>

#include "network/connect.h"
#include "network/netns.h"
#include "network/testing/pod.h"
#include "sandbox/cleanup.h"
#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class SandboxNetworkTest : public SandboxFixture {
 protected:
  void SetUp() override {
    SandboxFixture::SetUp();
    if (dir_.empty()) {
      return;
    }
    auto made = MakeNetworkNamespace();
    if (!made.has_value()) {
      GTEST_SKIP() << made.error().message();
    }
    network_ = *std::move(made);
    if (const auto added = Add("pod0"); !added.has_value()) {
      GTEST_SKIP() << "no interface can be made: " << added.error().message();
    }
  }

  // A tap of its own stands for what a CNI plugin makes: there is no kernel without.
  Result<std::string> Add(const std::string& name) const {
    WV_TRY_VOID(Ip({"tuntap", "add", name, "mode", "tap"}));
    return Ip({"link", "set", name, "up"});
  }

  Result<std::string> Ip(std::vector<std::string> words) const {
    words.insert(words.begin(), "/sbin/ip");
    return RunIn(network_, std::move(words));
  }

  std::string Path() const { return "/proc/self/fd/" + std::to_string(network_.get()); }

  BundleOptions InNetwork() const {
    BundleOptions options;
    options.network = R"(,{"type":"network","path":")" + Path() + R"("})";
    return options;
  }

  Result<> StartIn(const BundleOptions& bundle) {
    Backend backend;
    backend.make_machine = [this](const MachineOptions& machine) {
      asked_ = machine;
      return MakeHollowMachineWithAgent(agent_.Connector(), devices_);
    };
    backend.patience = patience_;
    SandboxOptions options = OptionsOf(MakeBundle("box", bundle), "box");
    Config config = *options.config;
    config.network = wanted_;
    options.config = std::make_shared<const Config>(std::move(config));
    options.published = published_;
    WV_TRY(sandbox_, StartSandbox(std::move(options), backend));
    return {};
  }

  std::vector<std::string> Calls() {
    const std::lock_guard lock(devices_->mu);
    return devices_->calls;
  }

  // Names of the last SetNetwork's interfaces.
  std::vector<std::string> Told() {
    std::vector<std::string> names;
    const auto all = agent_.Networks();
    if (!all.empty()) {
      for (const auto& interface : all.back().interface()) {
        names.push_back(interface.name());
      }
    }
    return names;
  }

  // Without lo, and what the kernel puts into each.
  std::vector<std::string> InNamespace() {
    std::vector<std::string> names;
    const auto listed = Ip({"-br", "link"});
    for (size_t at = 0; listed.has_value() && at < listed->size();
         at = listed->find('\n', at) + 1) {
      const std::string name = listed->substr(at, listed->find_first_of(" @", at) - at);
      if (name.starts_with("pod") || name.starts_with("wv")) {
        names.push_back(name);
      }
    }
    return names;
  }

  template <typename F>
  static bool Soon(F&& done) {
    for (int i = 0; i < 500 && !done(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return done();
  }

  UniqueFd network_;
  Config::Network wanted_;
  std::vector<PublishedPort> published_;
  MachineOptions asked_;
  FakeAgent agent_;
  const std::shared_ptr<DiskWatch> devices_ = std::make_shared<DiskWatch>();
};

TEST_F(SandboxNetworkTest, GuestHasWhatIsThereAtTheStart) {
  const auto started = StartIn(InNetwork());
  ASSERT_TRUE(started.has_value()) << started.error().message();
  EXPECT_THAT(Calls(), ElementsAre(HasSubstr("attach net-0")));
  EXPECT_THAT(Told(), ElementsAre("pod0"));
  EXPECT_THAT(InNamespace(), SizeIs(2)) << "and its tap";
  ASSERT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_THAT(InNamespace(), ElementsAre("pod0"));
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(SandboxNetworkTest, EachInterfaceHasTheRatesOfTheConfiguration) {
  wanted_ = {80'000, 4};
  ASSERT_TRUE(StartIn(InNetwork()).has_value());
  ASSERT_TRUE(Add("pod1").has_value());
  ASSERT_TRUE(Soon([this] { return Told().size() == 2; }));
  // Bytes; and a limit is one, however low.
  EXPECT_THAT(Calls(), ElementsAre(HasSubstr("rates 10000 1"), HasSubstr("rates 10000 1")));
}

TEST_F(SandboxNetworkTest, GuestWithoutInterfacesIsNotAsked) {
  ASSERT_TRUE(StartIn({}).has_value());
  EXPECT_THAT(Calls(), IsEmpty());
  EXPECT_THAT(agent_.Networks(), IsEmpty());
}

TEST_F(SandboxNetworkTest, HostsNetworkIsRefused) {
  BundleOptions options;
  options.network = "";
  const auto started = StartIn(options);
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message(), HasSubstr("the host's network was asked for"));
  options.network = R"(,{"type":"network","path":"/proc/1/ns/net"})";
  EXPECT_FALSE(StartIn(options).has_value());
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(SandboxNetworkTest, HostsNetworkByPasstIsOneInterfaceThatNobodyElseHas) {
  wanted_.host = Config::HostNetwork::kPasst;
  wanted_.host_loopback = true;
  published_ = {{"", 8080, 80, false}};
  BundleOptions options;
  for (const char* network : {"", R"(,{"type":"network","path":"/proc/self/ns/net"})"}) {
    options.network = network;
    const auto started = StartIn(options);
    ASSERT_TRUE(started.has_value()) << started.error().message();
    ASSERT_TRUE(asked_.user_network.has_value());
    EXPECT_EQ(asked_.user_network->passt, "/usr/bin/passt");
    EXPECT_TRUE(asked_.user_network->host_loopback);
    EXPECT_EQ(asked_.user_network->published, published_);
    EXPECT_THAT(Calls(), IsEmpty()) << "no tap, no redirection";
    ASSERT_THAT(Told(), ElementsAre("eth0"));
    EXPECT_EQ(agent_.Networks().back().interface(0).address(0).address(), "10.0.2.15/24");
    ASSERT_EQ(agent_.Networks().back().route_size(), 1);
    EXPECT_EQ(agent_.Networks().back().route(0).gateway(), "10.0.2.2");
    ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", options), false, false))
                    .has_value());
    EXPECT_TRUE(sandbox_->StartProcess("c", "").has_value());
    ASSERT_TRUE(sandbox_->Shutdown().has_value());
    EXPECT_EQ(LeftBehind(), "");
  }
}

TEST_F(SandboxNetworkTest, PortsOfANamespaceOfItsOwnAreNotPublished) {
  published_ = {{"", 8080, 80, false}};
  const auto started = StartIn(InNetwork());
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message(),
              HasSubstr("ports can be published of a user network only"));
  EXPECT_EQ(LeftBehind(), "");
}

// As with `ctr run --cni`, docker and nerdctl: there before the container's first program runs.
TEST_F(SandboxNetworkTest, InterfaceThatComesAfterCreateIsThereWhenItStarts) {
  ASSERT_TRUE(StartIn(InNetwork()).has_value());
  ASSERT_TRUE(
      sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", InNetwork()), false, false))
          .has_value());
  ASSERT_TRUE(Add("pod1").has_value());
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  EXPECT_THAT(Told(), ElementsAre("pod0", "pod1"));
}

TEST_F(SandboxNetworkTest, InterfacesComeAndGoWhileItRuns) {
  ASSERT_TRUE(StartIn(InNetwork()).has_value());
  ASSERT_TRUE(Add("pod1").has_value());
  EXPECT_TRUE(Soon([this] { return Told().size() == 2; }));
  ASSERT_TRUE(Ip({"link", "delete", "pod1"}).has_value());
  EXPECT_TRUE(Soon([this] { return Told().size() == 1; }));
  EXPECT_THAT(Calls().back(), HasSubstr("detach net-1"));
  EXPECT_TRUE(Soon([this] { return InNamespace().size() == 2; })) << "pod0 and its tap";
}

TEST_F(SandboxNetworkTest, InterfaceThatTheMachineRefusesFailsTheStartByItsName) {
  {
    const std::lock_guard lock(devices_->mu);
    devices_->refuse_networks = true;
  }
  const auto started = StartIn(InNetwork());
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message(), HasSubstr("network interface pod0: the VMM refuses"));
  EXPECT_THAT(InNamespace(), ElementsAre("pod0"));
  EXPECT_EQ(LeftBehind(), "");
}

// --network container:…: the one that has it keeps it.
TEST_F(SandboxNetworkTest, AnotherSandboxInTheNamespaceIsRefusedAndChangesNothing) {
  const auto started = StartIn(InNetwork());
  ASSERT_TRUE(started.has_value()) << started.error().message();
  const auto redirection = [this] {
    return RunIn(network_, {"/sbin/tc", "filter", "show", "dev", "pod0", "ingress"}).value_or("");
  };
  const std::string before = redirection();
  EXPECT_THAT(before, HasSubstr("mirred"));
  Backend backend;
  FakeAgent agent;
  backend.make_machine = [&](const MachineOptions&) {
    return MakeHollowMachineWithAgent(agent.Connector(), std::make_shared<DiskWatch>());
  };
  const auto other = StartSandbox(OptionsOf(MakeBundle("other", InNetwork()), "other"), backend);
  ASSERT_FALSE(other.has_value());
  EXPECT_THAT(other.error().message(), HasSubstr("connected to another guest"));
  EXPECT_EQ(redirection(), before);
  EXPECT_THAT(InNamespace(), SizeIs(2));
}

TEST_F(SandboxNetworkTest, DeathOfTheMachineDisconnects) {
  ASSERT_TRUE(StartIn(InNetwork()).has_value());
  Machine::EventCallback tell;
  {
    const std::lock_guard lock(devices_->mu);
    tell = devices_->events;
  }
  tell({MachineEvent::Kind::kVmmFault, "it fell"});
  EXPECT_TRUE(Soon([this] { return InNamespace().size() == 1; }));
}

}  // namespace
}  // namespace wyvern::runtime
