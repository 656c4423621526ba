//! Whatever arrives on a data-plane connection: an error or a frame, bounded memory, never a panic; and a frame that
//! was understood says the same after it is sent again.
#![no_main]
use cairn_proto::frame::{read_frame, write_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut stream = bytes;
        while let Ok(Some(frame)) = read_frame(&mut stream).await {
            let mut again = vec![];
            write_frame(&mut again, frame.body.clone(), &frame.payload).await.expect("a Vec takes all");
            assert_eq!(read_frame(&mut &again[..]).await.expect("our own frame").expect("a whole frame"), frame);
        }
    });
});
