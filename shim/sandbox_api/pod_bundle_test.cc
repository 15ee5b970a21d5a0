#include "sandbox_api/pod_bundle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "oci/spec.h"

namespace wyvern::shim {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsSupersetOf;
using testing::Pair;

const HostNames kHost{"node-1", "127.0.0.1 localhost\n", "nameserver 192.0.2.1\n"};

sandbox_pb::PodSandboxConfig WholePod() {
  sandbox_pb::PodSandboxConfig pod;
  pod.mutable_metadata()->set_name("web");
  pod.mutable_metadata()->set_namespace_("default");
  pod.mutable_metadata()->set_uid("u-1");
  pod.set_hostname("web-0");
  pod.set_log_directory("/var/log/pods/u-1");
  pod.mutable_dns_config()->add_servers("10.96.0.10");
  pod.mutable_dns_config()->add_servers("fd00::10");
  pod.mutable_dns_config()->add_searches("a.svc");
  pod.mutable_dns_config()->add_searches("svc");
  pod.mutable_dns_config()->add_options("ndots:5");
  auto& config = *pod.mutable_linux();
  config.set_cgroup_parent("/kubepods/pod-1");
  (*config.mutable_sysctls())["kernel.shmmax"] = "5";
  config.mutable_resources()->set_cpu_period(100000);
  config.mutable_resources()->set_cpu_quota(150000);
  config.mutable_resources()->set_memory_limit_in_bytes(536870912);
  return pod;
}

sandbox_pb::CreateSandboxRequest RequestOf(const sandbox_pb::PodSandboxConfig& pod) {
  sandbox_pb::CreateSandboxRequest request;
  request.set_sandbox_id("abc");
  request.set_bundle_path("/bundle");
  request.set_netns_path("/run/netns/x");
  request.mutable_options()->set_type_url("runtime.v1.PodSandboxConfig");
  request.mutable_options()->set_value(pod.SerializeAsString());
  return request;
}

oci::Facts FactsOf(const PodBundle& bundle) {
  const auto spec = oci::Spec::Parse(bundle.config_json);
  EXPECT_TRUE(spec.has_value()) << spec.error().message();
  return spec.has_value() ? spec->facts() : oci::Facts();
}

TEST(PodBundleTest, AWholePodIsWhatPodsandboxModeMakesOfIt) {
  const auto bundle = DescribePod(RequestOf(WholePod()), kHost);
  ASSERT_TRUE(bundle.has_value()) << bundle.error().message();
  EXPECT_EQ(bundle->hostname, "web-0\n");
  EXPECT_EQ(bundle->hosts, kHost.hosts);
  EXPECT_EQ(bundle->resolv_conf,
            "search a.svc svc\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5\n");
  const oci::Facts facts = FactsOf(*bundle);
  EXPECT_TRUE(facts.stands_for_pod);
  EXPECT_EQ(facts.hostname, "web-0");
  EXPECT_EQ(facts.network_namespace_path, "/run/netns/x");
  EXPECT_EQ(facts.cgroups_path, "/kubepods/pod-1/abc");
  EXPECT_EQ(facts.shm_source, "") << "a tmpfs of the pod's";
  EXPECT_THAT(facts.pod_files,
              testing::ElementsAre(Pair("/etc/hostname", "/bundle/hostname"),
                                   Pair("/etc/hosts", "/bundle/hosts"),
                                   Pair("/etc/resolv.conf", "/bundle/resolv.conf")));
  EXPECT_THAT(facts.sandbox_sysctls, testing::UnorderedElementsAre(
                                         "kernel.shmmax=5", "net.ipv4.ip_unprivileged_port_start=0",
                                         "net.ipv4.ping_group_range=0 2147483647"));
  EXPECT_THAT(facts.annotations,
              IsSupersetOf({Pair("io.kubernetes.cri.sandbox-id", "abc"),
                            Pair("io.kubernetes.cri.sandbox-name", "web"),
                            Pair("io.kubernetes.cri.sandbox-cpu-quota", "150000"),
                            Pair("io.kubernetes.cri.sandbox-memory", "536870912")}));
}

TEST(PodBundleTest, NothingGivenIsAPodWithANetworkOfItsOwn) {
  sandbox_pb::CreateSandboxRequest request;
  request.set_sandbox_id("abc");
  request.set_bundle_path("/bundle");
  const auto bundle = DescribePod(request, kHost);
  ASSERT_TRUE(bundle.has_value()) << bundle.error().message();
  EXPECT_EQ(bundle->hostname, "node-1\n");
  EXPECT_EQ(bundle->resolv_conf, kHost.resolv_conf);
  const oci::Facts facts = FactsOf(*bundle);
  EXPECT_TRUE(facts.network_namespace);
  EXPECT_EQ(facts.network_namespace_path, "");
  EXPECT_EQ(facts.hostname, "");
  EXPECT_EQ(facts.cgroups_path, "");
}

TEST(PodBundleTest, NamespacesOfTheHostAreLeftToTheRuntime) {
  sandbox_pb::PodSandboxConfig pod;
  auto& options = *pod.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  options.set_network(sandbox_pb::NODE);
  options.set_ipc(sandbox_pb::NODE);
  options.set_pid(sandbox_pb::NODE);
  options.mutable_userns_options()->set_mode(sandbox_pb::POD);
  for (auto* range : {options.mutable_userns_options()->add_uids(),
                      options.mutable_userns_options()->add_gids()}) {
    range->set_host_id(100000);
    range->set_length(65536);
  }
  auto request = RequestOf(pod);
  request.clear_netns_path();
  const auto bundle = DescribePod(request, kHost);
  ASSERT_TRUE(bundle.has_value()) << bundle.error().message();
  const oci::Facts facts = FactsOf(*bundle);
  EXPECT_FALSE(facts.network_namespace) << "the runtime refuses it";
  EXPECT_EQ(facts.shm_source, "/dev/shm");
  EXPECT_EQ(facts.ids.users, std::vector<IdRange>({{0, 100000, 65536}}));
  EXPECT_EQ(facts.ids.groups, facts.ids.users);
  EXPECT_EQ(json::parse(bundle->config_json)["linux"]["namespaces"],
            json::parse(R"([{"type":"uts"},{"type":"mount"},{"type":"user"}])"));
}

TEST(PodBundleTest, CgroupsOfSystemdAreNamedAsContainerdNamesThem) {
  sandbox_pb::PodSandboxConfig pod;
  pod.mutable_linux()->set_cgroup_parent("/kubepods.slice/kubepods-pod1.slice");
  const auto bundle = DescribePod(RequestOf(pod), kHost);
  ASSERT_TRUE(bundle.has_value());
  EXPECT_EQ(FactsOf(*bundle).cgroups_path, "kubepods-pod1.slice:cri-containerd:abc");
}

// Who writes the pod does not choose what it stands for, whose group it is in, or what the node's administrator lets through.
TEST(PodBundleTest, AnnotationsOfAPodAreOnlyThoseForUs) {
  sandbox_pb::PodSandboxConfig pod = WholePod();
  auto& annotations = *pod.mutable_annotations();
  annotations["io.kubernetes.cri.container-type"] = "container";
  annotations["io.kubernetes.cri.sandbox-id"] = "another";
  annotations["io.containerd.runc.v2.group"] = "another";
  annotations["io.kubernetes.cri-o.ContainerType"] = "container";
  annotations["io.wyvern.vcpus"] = "2";
  annotations["io.katacontainers.config.hypervisor.default_memory"] = "512";
  auto request = RequestOf(pod);
  (*request.mutable_annotations())["io.wyvern.memory"] = "1GiB";
  (*request.mutable_annotations())["example.org/x"] = "y";
  const auto bundle = DescribePod(request, kHost);
  ASSERT_TRUE(bundle.has_value());
  const oci::Facts facts = FactsOf(*bundle);
  EXPECT_TRUE(facts.stands_for_pod);
  EXPECT_EQ(facts.annotations.at("io.kubernetes.cri.sandbox-id"), "abc");
  EXPECT_FALSE(facts.annotations.contains("io.containerd.runc.v2.group"));
  EXPECT_FALSE(facts.annotations.contains("io.kubernetes.cri-o.ContainerType"));
  EXPECT_FALSE(facts.annotations.contains("example.org/x"));
  EXPECT_EQ(facts.annotations.at("io.wyvern.vcpus"), "2");
  EXPECT_EQ(facts.annotations.at("io.wyvern.memory"), "1GiB");
  EXPECT_EQ(facts.annotations.at("io.katacontainers.config.hypervisor.default_memory"), "512");
}

TEST(PodBundleTest, WordsThatWouldBeLinesAreRefusedByTheirField) {
  const auto refusal = [](auto change) {
    sandbox_pb::PodSandboxConfig pod = WholePod();
    change(pod);
    const auto bundle = DescribePod(RequestOf(pod), kHost);
    EXPECT_FALSE(bundle.has_value());
    return bundle.has_value() ? std::string() : bundle.error().message();
  };
  EXPECT_THAT(refusal([](auto& pod) { pod.set_hostname("a\n127.0.0.1 b"); }),
              HasSubstr("hostname"));
  EXPECT_THAT(refusal([](auto& pod) { pod.mutable_dns_config()->add_servers("a\noptions x"); }),
              HasSubstr("dns_config.servers"));
  EXPECT_THAT(refusal([](auto& pod) { pod.mutable_dns_config()->add_searches(""); }),
              HasSubstr("dns_config.searches"));
  EXPECT_THAT(
      refusal([](auto& pod) { pod.mutable_dns_config()->add_options(std::string("a\0b", 3)); }),
      HasSubstr("dns_config.options"));
}

TEST(PodBundleTest, OptionsOfAnotherKindAreRefused) {
  auto request = RequestOf(WholePod());
  request.mutable_options()->set_type_url("containerd.runc.v1.Options");
  EXPECT_THAT(DescribePod(request, kHost).error().message(), HasSubstr("containerd.runc.v1"));
  request.mutable_options()->set_type_url("types.containerd.io/runtime.v1.PodSandboxConfig");
  EXPECT_TRUE(DescribePod(request, kHost).has_value());
  request.mutable_options()->set_value("\xff\xff\xff");
  EXPECT_EQ(DescribePod(request, kHost).error().code(), Code::kInvalidArgument);
}

// Every byte of the request, each of its bits, and every length.
TEST(PodBundleTest, HostileBytesAreRefusedOrABundle) {
  const std::string good = RequestOf(WholePod()).SerializeAsString();
  int bundles = 0;
  const auto attack = [&](const std::string& bytes) {
    sandbox_pb::CreateSandboxRequest request;
    if (!request.ParseFromString(bytes)) {
      return;
    }
    const auto bundle = DescribePod(request, kHost);
    if (!bundle.has_value()) {
      EXPECT_EQ(bundle.error().code(), Code::kInvalidArgument);
      return;
    }
    ++bundles;
    if (const auto spec = oci::Spec::Parse(bundle->config_json); spec.has_value()) {
      EXPECT_TRUE(spec->facts().stands_for_pod);
    }
  };
  for (size_t at = 0; at < good.size(); ++at) {
    attack(good.substr(0, at));
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      attack(bytes);
    }
  }
  EXPECT_GT(bundles, 0);
}

}  // namespace
}  // namespace wyvern::shim
