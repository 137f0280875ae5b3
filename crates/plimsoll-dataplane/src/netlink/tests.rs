//! What is written is read back; what is damaged is survived.

use proptest::prelude::*;

use super::*;

#[test]
fn nested_attributes_come_back() {
    let mut builder = Builder::new();
    let first = builder.message(0x0a06, ACK, &nfgenmsg(1, 0), |m| {
        m.text(1, "table");
        m.nest(2, |m| {
            m.be32(1, 0xdead_beef);
            m.be16(2, 80);
            m.u8(3, 6);
        });
        m.be64(5, 10_000);
    });
    let second = builder.message(0x0a07, 0, &nfgenmsg(1, 10), |_| {});
    let all: Vec<_> = messages(builder.bytes()).collect();
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].seq, all[1].seq), (first, second));
    assert_eq!(all[0].flags, REQUEST | ACK);
    assert_eq!(all[1].body, [1, 0, 0, 10]);
    let attributes = all[0].attributes(4);
    assert_eq!(attributes.find(1).unwrap().text(), Some("table"));
    let inner = attributes.find(2).unwrap().attributes();
    assert_eq!(inner.find(1).unwrap().be32(), Some(0xdead_beef));
    assert_eq!(inner.find(2).unwrap().be16(), Some(80));
    assert_eq!(inner.find(3).unwrap().u8(), Some(6));
    assert_eq!(inner.find(3).unwrap().be32(), None);
    assert_eq!(attributes.find(5).unwrap().be64(), Some(10_000));
    assert!(attributes.find(9).is_none());
}

#[test]
fn an_error_carries_the_kernels_words() {
    let mut builder = Builder::new();
    // NLMSG_ERROR with NLM_F_CAPPED | NLM_F_ACK_TLVS: number, the refused header, attributes.
    let mut body = (-libc::ENOENT).to_ne_bytes().to_vec();
    body.extend_from_slice(&[0; HEADER]);
    builder.message(2, 0x300, &body, |m| m.text(1, "no such set"));
    let message = messages(builder.bytes()).next().unwrap();
    let refusal = message.verdict().unwrap().unwrap_err();
    assert_eq!(refusal.errno, libc::ENOENT);
    assert_eq!(refusal.text.as_deref(), Some("no such set"));
    assert_eq!(refusal.to_string(), "No such file or directory (os error 2) (no such set)");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        check_bytes(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(at in 0usize..80, value: u8, keep in 0usize..80) {
        let mut builder = Builder::new();
        builder.message(2, 0x200, &[255; 4], |m| m.nest(1, |m| m.nest(2, |m| m.text(3, "x"))));
        builder.message(0x0a0c, 0, &nfgenmsg(1, 0), |m| m.nest(1, |m| m.be32(1, 1)));
        let mut bytes = builder.bytes().to_vec();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(keep);
        check_bytes(&bytes);
    }
}
