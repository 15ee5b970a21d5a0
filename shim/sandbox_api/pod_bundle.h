// sandbox_api/pod_bundle.h — a pod as the Sandbox API describes it, as the bundle of the container that stands for it: what containerd's
// podsandbox mode writes by itself (internal/cri/server/podsandbox). From there on both kinds of pod are one.
// Spec:    containerd api/runtime/sandbox/v1, Kubernetes cri-api v1 PodSandboxConfig, OCI runtime specification 1.2.
// Trust:   the request is containerd's, but names, DNS, sysctls and annotations in it are a pod author's. Annotations: only those that
//          deploy/containerd lets through (io.wyvern.*, io.katacontainers.*); what they may set says annotations.allow.
// Errors:  INVALID_ARGUMENT, with the field's name.
#pragma once

#include <string>

#include "base/error.h"
#include "proto/containerd_sandbox.pb.h"

namespace wyvern::shim {

namespace sandbox_pb = containerd::sandbox;

// Of this host: for pods that bring none of their own.
struct HostNames {
  std::string hostname;
  std::string hosts;        // /etc/hosts
  std::string resolv_conf;  // /etc/resolv.conf
};

// Contents of files.
struct PodBundle {
  std::string config_json;
  std::string hostname;
  std::string hosts;
  std::string resolv_conf;
};

// What is not given is as containerd has it by default: no options at all are a pod without a name and with a network of its own.
Result<PodBundle> DescribePod(const sandbox_pb::CreateSandboxRequest& request,
                              const HostNames& host);

Result<HostNames> ReadHostNames();

// Into the existing directory `bundle`, and its rootfs/.
Result<> WritePodBundle(const std::string& bundle, const PodBundle& pod);

}  // namespace wyvern::shim
