#include "console/console_control.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"

namespace wyvern::devices {
namespace {

// What the port sends until nothing is due.
std::vector<ConsoleEvent> Drained(PortControl& port) {
  std::vector<ConsoleEvent> events;
  while (port.owes()) {
    const auto message = port.Next();
    WV_CHECK(message.has_value());
    ConsoleControl control;
    std::memcpy(static_cast<void*>(&control), message->bytes().data(), sizeof(control));
    events.push_back(static_cast<ConsoleEvent>(control.event.value()));
    port.Sent();
  }
  return events;
}

using Events = std::vector<ConsoleEvent>;

PortControl Port(bool console = true) {
  PortControl port(3);
  port.Create("name", console, false);
  return port;
}

TEST(PortControlTest, MessagesComeInTheOrderOfTheSpecification) {
  PortControl port = Port();
  port.Resize(80, 25);
  port.HostOpened();
  EXPECT_FALSE(port.owes());
  port.DriverReady();
  EXPECT_EQ(Drained(port), Events{ConsoleEvent::kPortAdd});
  EXPECT_TRUE(port.PortReady(true));
  EXPECT_EQ(Drained(port), (Events{ConsoleEvent::kConsolePort, ConsoleEvent::kPortName,
                                   ConsoleEvent::kPortOpen, ConsoleEvent::kResize}));
}

TEST(PortControlTest, PortThatTheDriverHasIsNotAddedAgain) {
  // VIRTIO §5.3.6.2.1
  PortControl port = Port();
  port.DriverReady();
  EXPECT_EQ(Drained(port), Events{ConsoleEvent::kPortAdd});
  port.DriverReady();
  EXPECT_FALSE(port.owes());
  port.Reset();
  port.DriverReady();
  EXPECT_EQ(Drained(port), Events{ConsoleEvent::kPortAdd});
}

TEST(PortControlTest, PortThatTheDriverNeverHadIsNotRemoved) {
  // VIRTIO §5.3.6.2.1
  PortControl port = Port();
  port.DriverReady();
  port.Remove();
  EXPECT_FALSE(port.owes());
}

TEST(PortControlTest, PortMadeAnewIsRemovedFirst) {
  PortControl port = Port();
  port.DriverReady();
  (void)Drained(port);
  port.Remove();
  EXPECT_FALSE(port.PortReady(true));
  port.Create("other", false, true);
  EXPECT_FALSE(port.PortReady(true));  // the driver still has the old one
  EXPECT_FALSE(port.PortOpen(true));
  EXPECT_EQ(Drained(port), (Events{ConsoleEvent::kPortRemove, ConsoleEvent::kPortAdd}));
  EXPECT_TRUE(port.PortReady(true));
  // And gone again before anything of it was told.
  port.Remove();
  port.Create("third", false, true);
  port.Remove();
  EXPECT_EQ(Drained(port), Events{ConsoleEvent::kPortRemove});
  EXPECT_FALSE(port.owes());
}

TEST(PortControlTest, HostThatComesAndGoesIsToldAsFarAsItMatters) {
  PortControl port = Port(false);
  port.DriverReady();
  (void)Drained(port);
  EXPECT_TRUE(port.PortReady(true));
  (void)Drained(port);
  port.HostOpened();
  port.HostClosed();
  EXPECT_FALSE(port.owes());  // nobody has heard of it
  port.HostOpened();
  EXPECT_EQ(Drained(port), Events{ConsoleEvent::kPortOpen});
  port.HostClosed();
  port.HostOpened();
  const auto closed = port.Next();
  WV_CHECK(closed.has_value());
  EXPECT_EQ(closed->bytes()[6], std::byte{0});
  EXPECT_EQ(Drained(port), (Events{ConsoleEvent::kPortOpen, ConsoleEvent::kPortOpen}));
}

TEST(PortControlTest, PortThatTheDriverCouldNotMakeIsToldNothing) {
  PortControl port = Port();
  port.DriverReady();
  (void)Drained(port);
  EXPECT_TRUE(port.PortReady(false));
  port.HostOpened();
  port.Resize(1, 1);
  EXPECT_FALSE(port.owes());
}

TEST(PortControlTest, SizesAreForConsoles) {
  PortControl port = Port(false);
  port.DriverReady();
  (void)Drained(port);
  EXPECT_TRUE(port.PortReady(true));
  (void)Drained(port);
  port.Resize(100, 50);
  EXPECT_FALSE(port.owes());
}

TEST(PortControlTest, RestoredPortTellsThatItsHostIsGone) {
  PortControl port = Port(false);
  port.DriverReady();
  (void)Drained(port);
  EXPECT_TRUE(port.PortReady(true));
  port.HostOpened();
  (void)Drained(port);
  PortControl restored(3);
  restored.Restore(port.state());
  restored.HostOpened();
  EXPECT_EQ(Drained(restored), (Events{ConsoleEvent::kPortOpen, ConsoleEvent::kPortOpen}));
}

}  // namespace
}  // namespace wyvern::devices
