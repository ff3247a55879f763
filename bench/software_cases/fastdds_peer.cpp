// SPDX-License-Identifier: Apache-2.0
// A Fast DDS peer over TCP that answers what it hears, and its other end:
//   fastdds_peer serve|talk PORT ROUNDS FOLDER
// FOLDER holds keys, governance and permissions (dds_keys.py); '' is without security. The other
// end prints how many bytes went, a hash of them, and the median round trip of 64 KB in us.

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/DataReaderListener.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>
#include <fastdds/rtps/transport/TCPv4TransportDescriptor.h>
#include <fastrtps/utils/IPLocator.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using namespace eprosima::fastdds::dds;
using eprosima::fastdds::rtps::TCPv4TransportDescriptor;
using eprosima::fastrtps::rtps::IPLocator;
using eprosima::fastrtps::rtps::InstanceHandle_t;
using eprosima::fastrtps::rtps::Locator_t;
using eprosima::fastrtps::rtps::SerializedPayload_t;
using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;

// With security, samples of 1 MB do not arrive over TCP in Fast DDS 2.9, with or without us.
static constexpr size_t LARGEST = 64 << 10;

class BytesType : public TopicDataType
{
public:
	BytesType()
	{
		setName("Bytes");
		m_typeSize = LARGEST + 4096;
		m_isGetKeyDefined = false;
	}
	bool serialize(void *data, SerializedPayload_t *payload) override
	{
		auto *bytes = static_cast<Bytes *>(data);
		payload->length = bytes->size();
		std::memcpy(payload->data, bytes->data(), bytes->size());
		return true;
	}
	bool deserialize(SerializedPayload_t *payload, void *data) override
	{
		static_cast<Bytes *>(data)->assign(payload->data, payload->data + payload->length);
		return true;
	}
	std::function<uint32_t()> getSerializedSizeProvider(void *data) override
	{
		return [data] { return uint32_t(static_cast<Bytes *>(data)->size()); };
	}
	void *createData() override { return new Bytes; }
	void deleteData(void *data) override { delete static_cast<Bytes *>(data); }
	bool getKey(void *, InstanceHandle_t *, bool) override { return false; }
};

class Ears : public DataReaderListener
{
public:
	DataWriter *answer = nullptr; // where to send back what comes; null: keep it
	std::deque<Bytes> heard;
	std::mutex lock;
	std::condition_variable came;

	void on_data_available(DataReader *reader) override
	{
		Bytes bytes;
		SampleInfo info;

		while (reader->take_next_sample(&bytes, &info) == ReturnCode_t::RETCODE_OK) {
			if (!info.valid_data)
				continue;
			if (answer) {
				answer->write(&bytes);
				continue;
			}
			std::lock_guard<std::mutex> held(lock);
			heard.push_back(bytes);
			came.notify_one();
		}
	}
	bool next(Bytes &bytes, int milliseconds)
	{
		std::unique_lock<std::mutex> held(lock);
		if (!came.wait_for(held, std::chrono::milliseconds(milliseconds),
				   [this] { return !heard.empty(); }))
			return false;
		bytes = heard.front();
		heard.pop_front();
		return true;
	}
};

static void secure(DomainParticipantQos &qos, const std::string &folder)
{
	auto set = [&](const std::string &name, const std::string &value) {
		qos.properties().properties().emplace_back("dds.sec." + name, value);
	};
	const std::string file = "file://" + folder + "/", auth = "auth.builtin.PKI-DH.",
			  access = "access.builtin.Access-Permissions.";
	set("auth.plugin", "builtin.PKI-DH");
	set(auth + "identity_ca", file + "ca.pem");
	set(auth + "identity_certificate", file + "identity.pem");
	set(auth + "private_key", file + "identity.key");
	set("access.plugin", "builtin.Access-Permissions");
	set(access + "permissions_ca", file + "ca.pem");
	set(access + "governance", file + "governance.p7s");
	set(access + "permissions", file + "permissions.p7s");
	set("crypto.plugin", "builtin.AES-GCM-GMAC");
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	const bool serves = !std::strcmp(argv[1], "serve");
	const uint16_t port = std::atoi(argv[2]);
	const int rounds = std::atoi(argv[3]);
	DomainParticipantQos qos;
	auto tcp = std::make_shared<TCPv4TransportDescriptor>();
	Ears ears;

	tcp->interfaceWhiteList.push_back("127.0.0.1");
	if (serves) {
		tcp->add_listener_port(port);
	} else {
		Locator_t server;
		server.kind = LOCATOR_KIND_TCPv4;
		IPLocator::setIPv4(server, "127.0.0.1");
		server.port = port;
		qos.wire_protocol().builtin.initialPeersList.push_back(server);
	}
	qos.transport().use_builtin_transports = false;
	qos.transport().user_transports.push_back(tcp);
	if (argv[4][0])
		secure(qos, argv[4]);
	auto *participant = DomainParticipantFactory::get_instance()->create_participant(115, qos);
	if (!participant) {
		std::fprintf(stderr, "no participant\n");
		return 1;
	}
	TypeSupport(new BytesType).register_type(participant);
	auto *asked = participant->create_topic("asked", "Bytes", TOPIC_QOS_DEFAULT);
	auto *answered = participant->create_topic("answered", "Bytes", TOPIC_QOS_DEFAULT);
	DataWriterQos writing = DATAWRITER_QOS_DEFAULT;
	DataReaderQos reading = DATAREADER_QOS_DEFAULT;
	writing.reliability().kind = reading.reliability().kind = RELIABLE_RELIABILITY_QOS;
	writing.history().kind = reading.history().kind = KEEP_ALL_HISTORY_QOS;
	auto *writer = participant->create_publisher(PUBLISHER_QOS_DEFAULT)
			       ->create_datawriter(serves ? answered : asked, writing);
	if (serves)
		ears.answer = writer;
	participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT)
		->create_datareader(serves ? asked : answered, reading, &ears);
	if (serves)
		for (;;)
			std::this_thread::sleep_for(std::chrono::hours(1));

	uint64_t hash = 1469598103934665603ULL, total = 0, random = 7;
	std::vector<double> times;
	Bytes message, got;
	const auto end = Clock::now() + std::chrono::seconds(30);
	message.assign(16, 1);
	do { // until both ways are there
		writer->write(&message);
		if (Clock::now() > end) {
			std::fprintf(stderr, "no answer\n");
			return 1;
		}
	} while (!ears.next(got, 200));
	while (ears.next(got, 500))
		;
	for (int round = 0; round < rounds; round++)
		for (size_t size : {size_t(16), size_t(1024), size_t(16 << 10), LARGEST}) {
			message.resize(size);
			for (auto &byte : message)
				byte = (random = random * 6364136223846793005ULL + 1) >> 56;
			const auto began = Clock::now();
			writer->write(&message);
			if (!ears.next(got, 20000)) {
				std::fprintf(stderr, "no answer to %zu bytes\n", size);
				return 1;
			}
			if (got != message) {
				std::fprintf(stderr, "%zu bytes came for %zu\n", got.size(), size);
				return 1;
			}
			if (size == LARGEST)
				times.push_back(std::chrono::duration<double, std::micro>(
							Clock::now() - began).count());
			for (auto byte : got)
				hash = (hash ^ byte) * 1099511628211ULL;
			total += 2 * size;
		}
	std::sort(times.begin(), times.end());
	std::printf("%llu %llx %.1f\n", (unsigned long long)total, (unsigned long long)hash,
		    times[times.size() / 2]);
	std::fflush(stdout);
	std::_Exit(0);
}
