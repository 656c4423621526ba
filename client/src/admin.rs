//! The administrator's calls, each with a deadline and an error that names the master.
use crate::{Error, Result, Server};
use bytes::Bytes;
use cairn_io::Env;
use cairn_proto::admin::admin_client::AdminClient;
use cairn_proto::admin::{
    CheckpointPiece, ChunkState, InspectChunksRequest, LoadCheckpointAnswer, SaveCheckpointRequest, ScrubNowRequest,
    StatusAnswer, StatusRequest,
};
use cairn_proto::common::ErrorCode;
use cairn_types::ChunkHandle;
use cairn_types::limits::{CONTROL_MESSAGE_BYTES_MAX, LOCATE_CHUNKS_MAX};
use futures::{Stream, StreamExt};
use std::time::Duration;
use tonic::transport::Channel;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A checkpoint of millions of files takes a while; no single piece of it may.
const PIECE_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Admin {
    address: String,
    client: AdminClient<Channel>,
}

impl Admin {
    /// # Errors
    /// `NoAnswer`, naming the address.
    pub async fn connect(address: &str, env: Env) -> Result<Self> {
        let channel = cairn_io::grpc::connect(env.net, address, CONNECT_WITHIN)
            .await
            .map_err(|e| Error::NoAnswer {
                server: Server::Master(address.into()),
                within: CONNECT_WITHIN,
                cause: e.to_string(),
            })?;
        let client = AdminClient::new(channel)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        Ok(Self {
            address: address.into(),
            client,
        })
    }

    fn server(&self) -> Server {
        Server::Master(self.address.clone())
    }

    async fn within<T>(
        &self,
        within: Duration,
        call: impl Future<Output = std::result::Result<T, tonic::Status>>,
    ) -> Result<T> {
        let no_answer = |cause| Error::NoAnswer {
            server: self.server(),
            within,
            cause,
        };
        match tokio::time::timeout(within, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Err(_) => Err(no_answer("no answer in time".into())),
            Ok(Err(status)) => Err(match status.code() {
                tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                    no_answer(status.message().into())
                }
                tonic::Code::Unimplemented => Error::Malformed {
                    server: self.server(),
                    what: "it is no master of Cairn".into(),
                },
                tonic::Code::InvalidArgument | tonic::Code::FailedPrecondition => {
                    self.refused(ErrorCode::ErrorInvalid, &status)
                }
                _ => self.refused(ErrorCode::ErrorUnavailable, &status),
            }),
        }
    }

    fn refused(&self, code: ErrorCode, status: &tonic::Status) -> Error {
        Error::Refused {
            server: self.server(),
            code,
            message: status.message().into(),
        }
    }

    pub async fn status(&self) -> Result<StatusAnswer> {
        let mut client = self.client.clone();
        let answer = self.within(ANSWER_WITHIN, client.status(StatusRequest {})).await?;
        Ok(answer.into_inner())
    }

    /// Has every server verify all it holds; gives the number of servers told. Progress is in the status.
    pub async fn scrub_now(&self) -> Result<u32> {
        let mut client = self.client.clone();
        let answer = self.within(ANSWER_WITHIN, client.scrub_now(ScrubNowRequest {})).await?;
        Ok(answer.into_inner().servers)
    }

    /// What is known of the given chunks, in their order.
    pub async fn inspect_chunks(&self, handles: &[ChunkHandle]) -> Result<Vec<ChunkState>> {
        let mut chunks = Vec::with_capacity(handles.len());
        for page in handles.chunks(LOCATE_CHUNKS_MAX) {
            let request = InspectChunksRequest {
                handles: page.iter().map(|h| h.0).collect(),
            };
            let mut client = self.client.clone();
            chunks.extend(
                self.within(ANSWER_WITHIN, client.inspect_chunks(request))
                    .await?
                    .into_inner()
                    .chunks,
            );
        }
        Ok(chunks)
    }

    /// The namespace and chunk map as of now, in pieces of a checkpoint file.
    pub async fn save_checkpoint(&self) -> Result<impl Stream<Item = Result<Bytes>> + Send + Unpin + use<>> {
        let mut client = self.client.clone();
        let pieces = self
            .within(ANSWER_WITHIN, client.save_checkpoint(SaveCheckpointRequest {}))
            .await?
            .into_inner();
        let admin = self.clone();
        Ok(Box::pin(futures::stream::unfold(Some(pieces), move |pieces| {
            let admin = admin.clone();
            async move {
                let mut pieces = pieces?;
                match admin.within(PIECE_WITHIN, pieces.message()).await {
                    Ok(Some(piece)) => Some((Ok(piece.data), Some(pieces))),
                    Ok(None) => None,
                    Err(e) => Some((Err(e), None)),
                }
            }
        })))
    }

    /// Loads a checkpoint into an empty master.
    ///
    /// # Errors
    /// `Refused` when the master's namespace is not empty or the pieces are no checkpoint.
    pub async fn load_checkpoint(
        &self,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<LoadCheckpointAnswer> {
        let mut client = self.client.clone();
        let pieces = pieces.map(|data| CheckpointPiece { data });
        // the caller's own stream may take its time; only the whole has a bound
        const WHOLE_WITHIN: Duration = Duration::from_secs(3600);
        Ok(self
            .within(WHOLE_WITHIN, client.load_checkpoint(pieces))
            .await?
            .into_inner())
    }
}
