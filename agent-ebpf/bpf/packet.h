/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet: its addresses, its transport protocol wherever that header is, and its ports. */
#ifndef HF_PACKET_H
#define HF_PACKET_H

#include "common.h"

#define HF_TCP 6
#define HF_UDP 17
#define HF_SCTP 132
/* The common header (RFC 9260 section 3.1) begins with the ports, as those of TCP and UDP do. The chunks follow it, each
 * beginning with its type. */
#define HF_SCTP_CHUNKS 12
#define HF_SCTP_INIT 1

struct hf_packet {
	struct hf_addr src;
	struct hf_addr dst;
	__u16 sport;
	__u16 dport;
	__u8 proto; /* as in the header */
	__u8 v6;
	__u8 fragment; /* not the first: there are no ports */
	__u8 broken;   /* it could not be read to its transport header, or goes by way of somebody else */
	__u8 upkeep;   /* neighbour discovery or multicast listener discovery, as the kernel itself sends them */
	__u8 init;     /* it would open an SCTP association */
};

HF_INLINE void hf_v4(struct hf_addr *addr, __u32 be)
{
	addr->w[0] = 0;
	addr->w[1] = 0;
	addr->w[2] = bpf_htonl(0xffff);
	addr->w[3] = be;
}

HF_INLINE int hf_is_v4_mapped(const struct hf_addr *addr)
{
	return addr->w[0] == 0 && addr->w[1] == 0 && addr->w[2] == bpf_htonl(0xffff);
}

/* To connect to the unspecified address is to connect to loopback. */
HF_INLINE int hf_is_loopback(const struct hf_addr *addr)
{
	if (hf_is_v4_mapped(addr))
		return (bpf_ntohl(addr->w[3]) >> 24) == 127 || addr->w[3] == 0;
	return addr->w[0] == 0 && addr->w[1] == 0 && addr->w[2] == 0 &&
	       (addr->w[3] == bpf_htonl(1) || addr->w[3] == 0);
}

HF_INLINE int hf_has_ports(__u8 proto)
{
	return proto == HF_TCP || proto == HF_UDP || proto == HF_SCTP;
}

struct hf_ip4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 len;
	__be16 id;
	__be16 frag;
	__u8 ttl;
	__u8 proto;
	__be16 check;
	__be32 src;
	__be32 dst;
};
struct hf_ip6 {
	__be32 flow;
	__be16 len;
	__u8 next;
	__u8 hops;
	struct hf_addr src;
	struct hf_addr dst;
};
struct hf_ports {
	__be16 src;
	__be16 dst;
};
struct hf_ext {
	__u8 next;
	__u8 len;
	__be16 frag;
};

HF_INLINE int hf_load(struct __sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(skb, offset, to, size);
}

/* Where the transport header is and of which protocol, in one number. */
#define HF_T_OFFSET 0xffffu
#define HF_T_PROTO_SHIFT 16
#define HF_T_FRAGMENT (1u << 24)
#define HF_T_BROKEN (1u << 25)

/* IPv6 has hop-by-hop options, routing, fragment, authentication and destination options before the transport header
 * (RFC 8200 section 4.1), each at most once in practice; a longer chain counts as broken. */
#define HF_MAX_EXT 8
HF_INLINE __u32 hf_transport6(struct __sk_buff *skb, __u8 next, __u32 offset)
{
	struct hf_ext ext;
	int i;

	for (i = 0; i < HF_MAX_EXT; i++) {
		if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60 && next != 135)
			return (offset & HF_T_OFFSET) | (__u32)next << HF_T_PROTO_SHIFT;
		if (hf_load(skb, offset, &ext, sizeof(ext)))
			return HF_T_BROKEN;
		/* A routing header with segments left names the last stop elsewhere than in the header. */
		if (next == 43 && (bpf_ntohs(ext.frag) & 0xff))
			return HF_T_BROKEN;
		if (next == 44) {
			if (bpf_ntohs(ext.frag) & 0xfff8)
				return HF_T_FRAGMENT | (__u32)ext.next << HF_T_PROTO_SHIFT;
			offset += 8;
		} else if (next == 51) {
			offset += ((__u32)ext.len + 2) * 4;
		} else {
			offset += ((__u32)ext.len + 1) * 8;
		}
		next = ext.next;
	}
	return HF_T_BROKEN;
}

/* RFC 791: the options "loose source and record route" (131) and "strict source and record route" (137) name the last
 * stop elsewhere than in the header. Options that cannot be read, or are more than four with their padding, count as
 * such: the verifier follows each way through them. */
HF_INLINE int hf_is_source_routed(struct __sk_buff *skb, __u32 end)
{
	__u32 at = sizeof(struct hf_ip4);
	__u8 option[2];
	int i;

	for (i = 0; i < 4; i++) {
		if (at >= end)
			return 0;
		if (hf_load(skb, at, option, at + 1 < end ? 2 : 1))
			return 1;
		if (option[0] == 0)
			return 0;
		if (option[0] == 1) {
			at += 1;
			continue;
		}
		if (option[0] == 131 || option[0] == 137 || at + 1 >= end || option[1] < 2)
			return 1;
		at += option[1];
	}
	return at < end;
}

/* Global, and with nothing but the packet and a number between it and its callers: so the verifier walks the many ways
 * through it once, alone, and not again behind each way that leads to it. */
__attribute__((noinline)) __u32 hf_transport(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(0x0800)) {
		struct hf_ip4 ip;
		__u32 offset;

		if (hf_load(skb, 0, &ip, sizeof(ip)))
			return HF_T_BROKEN;
		if (bpf_ntohs(ip.frag) & 0x1fff)
			return HF_T_FRAGMENT | (__u32)ip.proto << HF_T_PROTO_SHIFT;
		offset = (ip.version_ihl & 0xf) * 4;
		if (offset < sizeof(ip) || (offset > sizeof(ip) && hf_is_source_routed(skb, offset)))
			return HF_T_BROKEN;
		return offset | (__u32)ip.proto << HF_T_PROTO_SHIFT;
	}
	if (skb->protocol == bpf_htons(0x86dd)) {
		struct hf_ip6 ip;

		if (hf_load(skb, 0, &ip, sizeof(ip)))
			return HF_T_BROKEN;
		return hf_transport6(skb, ip.next, sizeof(ip));
	}
	return HF_T_BROKEN;
}

HF_INLINE void hf_parse(struct __sk_buff *skb, struct hf_packet *p)
{
	struct hf_ports ports;
	__u32 transport = hf_transport(skb), offset = transport & HF_T_OFFSET;
	__u8 hops = 0;

	p->proto = transport >> HF_T_PROTO_SHIFT;
	p->fragment = !!(transport & HF_T_FRAGMENT);
	p->broken = !!(transport & HF_T_BROKEN);
	if (skb->protocol == bpf_htons(0x0800)) {
		struct hf_ip4 ip;

		if (hf_load(skb, 0, &ip, sizeof(ip))) {
			p->broken = 1;
			return;
		}
		hf_v4(&p->src, ip.src);
		hf_v4(&p->dst, ip.dst);
	} else {
		struct hf_ip6 ip;

		p->v6 = 1;
		if (hf_load(skb, 0, &ip, sizeof(ip))) {
			p->broken = 1;
			return;
		}
		p->src = ip.src;
		p->dst = ip.dst;
		hops = ip.hops;
	}
	if (p->broken || p->fragment)
		return;
	if (p->v6 && p->proto == 58) {
		__u8 type = 0;

		/* RFC 4861 wants hop limit 255 of these, RFC 2710 and 3810 want 1. */
		if (!hf_load(skb, offset, &type, sizeof(type)))
			p->upkeep = (type >= 133 && type <= 137 && hops == 255) ||
				    (((type >= 130 && type <= 132) || type == 143) && hops == 1);
	}
	if (hf_has_ports(p->proto)) {
		if (hf_load(skb, offset, &ports, sizeof(ports))) {
			p->broken = 1;
			return;
		}
		p->sport = bpf_ntohs(ports.src);
		p->dport = bpf_ntohs(ports.dst);
	}
	if (p->proto == HF_SCTP) {
		__u8 type = 0;

		if (hf_load(skb, offset + HF_SCTP_CHUNKS, &type, sizeof(type)))
			p->broken = 1;
		p->init = type == HF_SCTP_INIT;
	}
}

#endif
